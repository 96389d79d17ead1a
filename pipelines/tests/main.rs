//! Definitions: what is refused, planned, tested and run of them; and the program.

mod definitions;
mod expectations;
mod models;
mod plan;
mod profile;
mod testing;
