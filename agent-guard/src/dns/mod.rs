//! The guard's own DNS proxy: what an agent may know of names, and may therefore connect to.
//!
//! Kernel programs send the agent's name queries here, whomever they were meant for. A query is parsed
//! (`request`), judged and answered ([`Resolver`]) from what the host's name servers say (`upstream`,
//! `chain`), and the answer is made anew (`reply`). The addresses in it are leased to the agent
//! ([`LeaseBook`]) before it goes out: the kernel allows them for as long as the answer is valid.

mod address;
mod chain;
mod leases;
mod limit;
mod reply;
mod request;
mod resolv_conf;
mod resolver;
mod server;
#[cfg(test)]
mod tests;
mod upstream;

pub use self::{
    address::is_internal,
    leases::{LeaseBook, LeaseError, LeaseStore},
    resolv_conf::{MAX_NAMESERVERS, ResolvConfError, nameservers},
    resolver::{Resolver, Settings, Told},
    server::{BindError, Proxy},
};
