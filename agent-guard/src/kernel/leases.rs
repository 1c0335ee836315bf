//! Leases in their BPF map.

use agent_guard_common::table::{Lease, LeaseKey};
use anyhow::{Context as _, ensure};
use aya::maps::{HashMap, MapData};

use super::{Row, grace::Grace, pins::Pins, tables::gone};
use crate::dns::LeaseStore;

/// The map that the kernel side looks addresses up in.
pub struct LeaseMap {
    map: HashMap<MapData, Row<LeaseKey>, Row<Lease>>,
    grace: Grace,
}

impl LeaseMap {
    /// Opens the map that is pinned at `pins`.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self { map: pins.map("LEASES").context("opening LEASES")?, grace: Grace::open(pins)? })
    }
}

impl LeaseStore for LeaseMap {
    fn write(&mut self, key: &LeaseKey, lease: &Lease) -> anyhow::Result<()> {
        // What is replaced is freed.
        let turn = match self.map.get(&Row(*key), 0) {
            Ok(_) => self.grace.turn_to_replace()?,
            Err(_) => self.grace.turn_to_insert()?,
        };
        self.map.insert(Row(*key), Row(*lease), 0).context("writing LEASES")?;
        drop(turn);
        let read = self.map.get(&Row(*key), 0).context("reading LEASES")?;
        ensure!(read.0 == *lease, "LEASES holds something else than what was written to it");
        Ok(())
    }

    fn remove(&mut self, key: &LeaseKey) -> anyhow::Result<()> {
        let _turn = Grace::turn_to_free()?;
        gone(self.map.remove(&Row(*key))).context("removing from LEASES")
    }
}
