//! throwaway
use agent_guard::{kernel::load::*, tier::Tier};
fn main() {
    let tier = match std::env::args().nth(1).as_deref() {
        Some("lsm") => Tier::Lsm,
        _ => Tier::Trace,
    };
    let sizes = MapSizes { edges: 1024, states: 1024, prefixes: 128, intervals: 128, starts: 64 };
    match load(tier, sizes) {
        Ok(_) => println!("loaded {tier}"),
        Err(e) => {
            println!("{e:#?}");
            println!("{e}");
        }
    }
}
