//! What changes from one policy to another: what recorded actions come to, or, without a recording, the rules.

mod recorded;
mod rules;
#[cfg(test)]
mod tests;

pub use self::{
    recorded::{Change, Judged, Recorded, diff_recorded},
    rules::{Difference, Kind, diff_rules},
};
