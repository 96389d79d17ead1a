//! Summaries of many values in little space: pure arithmetic, the same on every machine.
//!
//! | sketch | of | error | takes back |
//! |---|---|---|---|
//! | [`Quantiles`] | numbers | 1 % of the number | yes |
//! | [`Centred`] | numbers that lie close together, far from zero | 4 % of the distance from the middle of the first 16 | no |
//! | [`Distinct`] | hashes | none up to 1,024 different ones, then about 4 % | yes |
//!
//! A sketch depends only on what was added, not on the order in which it was (but [`Centred`]: its middle is that of the first values).
//! Equal sketches serialise to equal bytes.

mod centred;
mod distinct;
mod quantiles;

pub use centred::Centred;
pub use distinct::Distinct;
pub use quantiles::Quantiles;
