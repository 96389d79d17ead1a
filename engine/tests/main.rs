//! The engine as those who build graphs see it: each run is whole, on small graphs in memory.

mod checkpoint;
mod epochs;
mod faults;
mod pieces;
mod processes;
mod simulation;
