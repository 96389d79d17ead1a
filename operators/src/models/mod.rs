//! Models: pure arithmetic.
