//! SQL expressions over batches.
