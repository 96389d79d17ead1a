//! Connectors: brokers, sources, sinks and formats. Bytes and records, never their meaning.

pub mod broker;
pub mod formats;
pub mod http;
#[cfg(test)]
mod round_trip;
pub mod sinks;
pub mod sources;
pub mod store;
pub mod tls;
