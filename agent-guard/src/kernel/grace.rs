//! Waiting until no program can hold what was freed.
//!
//! From 6.1 on the kernel gives the memory of a map's entry, once it is replaced or removed, to the next entry at
//! once. A program that still held it would go on with another agent's. So what was freed rests until every program
//! has ended that ran then, and nobody inserts meanwhile. Whether anything rests is said where guards take turns,
//! so that who inserts waits only then, and for all that was freed before.

use agent_guard_common::table::NO_RING;
use aya::maps::{HashOfMaps, MapData, RingBuf};

use super::{
    pins::Pins,
    rings::new_ring,
    tables::{InstallError, in_map},
};
use crate::state_dir::Turn;

/// What waits until every program that was running has ended: a write to a map of maps returns only then
/// (`maybe_wait_bpf_programs` in `kernel/bpf/syscall.c`). `membarrier` does not do: it waits for nobody where
/// one processor is online, and a program can be preempted there too.
pub struct Grace {
    pub(super) rings: HashOfMaps<MapData, u32, RingBuf<MapData>>,
    idle: RingBuf<MapData>,
}

/// Bytes of the ring buffer that is written to wait: the least that there is.
const IDLE_BYTES: u32 = 4096;

impl Grace {
    /// Over the maps that are pinned at `pins`.
    pub fn open(pins: &Pins) -> Result<Self, InstallError> {
        let rings = pins.map("RINGS").map_err(in_map("RINGS"))?;
        Ok(Self { rings, idle: new_ring(IDLE_BYTES)? })
    }

    /// The right to insert into maps whose entries programs hold while they run.
    pub fn turn_to_insert(&mut self) -> Result<Turn, InstallError> {
        let turn = Turn::take().map_err(InstallError::Turn)?;
        if turn.has_resting().map_err(InstallError::Turn)? {
            self.wait(&turn)?;
        }
        Ok(turn)
    }

    /// The right to replace and remove such entries. What that frees rests.
    pub fn turn_to_free() -> Result<Turn, InstallError> {
        let turn = Turn::take().map_err(InstallError::Turn)?;
        turn.begin_rest().map_err(InstallError::Turn)?;
        Ok(turn)
    }

    /// The right to do both: what is replaced goes to nobody before the next turn.
    pub fn turn_to_replace(&mut self) -> Result<Turn, InstallError> {
        let turn = self.turn_to_insert()?;
        turn.begin_rest().map_err(InstallError::Turn)?;
        Ok(turn)
    }

    /// Returns when all that was freed by now has rested.
    pub fn wait(&mut self, turn: &Turn) -> Result<(), InstallError> {
        self.rings.insert(NO_RING, &self.idle, 0).map_err(in_map("RINGS"))?;
        turn.end_rest().map_err(InstallError::Turn)
    }
}
