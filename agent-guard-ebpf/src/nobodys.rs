//! Cgroups that were found to be no agent's: what everybody's opens outside of agents are answered by, without a
//! look-up.

use core::cell::UnsafeCell;

/// Places for cgroups. Two that share one are looked up in turns.
const PLACES: usize = 4096;

/// Each place holds the [`word`] of a cgroup, or 0.
#[repr(transparent)]
struct Noted(UnsafeCell<[u64; PLACES]>);

// SAFETY: a place is one word, read and written whole by every processor.
unsafe impl Sync for Noted {}

#[unsafe(no_mangle)]
static NOTED: Noted = Noted(UnsafeCell::new([0; PLACES]));

/// Bits of a cgroup's id. The kernel counts them up from 1, and not a billion times a thousand.
const ID_BITS: u32 = 40;

/// A cgroup, and the generation in which it was looked up. Of that 24 bits are left: what was noted would hold
/// again after 2^23 changes of agents, for a cgroup that an agent was bound to although it had been in use.
#[inline(always)]
fn word(cgroup: u64, generation: u32) -> u64 {
    cgroup ^ u64::from(generation) << ID_BITS
}

/// The place of a cgroup. Ids lie some dozens apart.
#[inline(always)]
fn place(cgroup: u64) -> *mut u64 {
    // SAFETY: the remainder is an index below `PLACES`.
    unsafe { NOTED.0.get().cast::<u64>().add(cgroup as usize % PLACES) }
}

/// Whether the cgroup with this id, or 0 where it could not be read, is no agent's in this generation.
#[inline(always)]
pub fn is_noted(cgroup: u64, generation: u32) -> bool {
    // SAFETY: a word that is never anything else.
    cgroup != 0 && unsafe { place(cgroup).read_volatile() } == word(cgroup, generation)
}

/// Notes that the cgroup with this id was no agent's, nor below one's, in this generation or later.
#[inline(always)]
pub fn note(cgroup: u64, generation: u32) {
    if cgroup >> ID_BITS == 0 {
        // SAFETY: as in `is_noted`.
        unsafe { place(cgroup).write_volatile(word(cgroup, generation)) };
    }
}
