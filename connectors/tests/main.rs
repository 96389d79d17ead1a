//! Brokers and receivers over real files, sockets and servers.

mod conformance;
mod durability;
mod intake;
mod kafka_faults;
mod proxy;
