//! Recorded events as questions to a policy: what was done, each distinct action once, and what a policy says of it.
//!
//! A recording tells what agents asked of a kernel and where that led: paths are without links, addresses as they
//! were judged. So nothing is looked up again, and another host gives the same answers, but for the links in a
//! policy's own patterns.

mod actions;
mod judge;
mod question;
#[cfg(test)]
pub(in crate::policy) mod tests;

pub use self::{
    actions::{Action, Actions, Collector, MAX_ACTIONS},
    judge::{Judge, Verdict},
    question::{Question, Unasked},
};
