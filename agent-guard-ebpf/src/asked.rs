//! Files that were asked about of late: most are asked about once, and then nothing is to be kept of them.
//!
//! A guess, and no more than that: the place of a file may have been taken by another, and its inode be another file's
//! by now.

use core::cell::UnsafeCell;

use crate::kernel::{distance, scatter};

/// Places for files.
const PLACES: u64 = 4096;

/// Each place holds a word for an inode and a policy.
#[repr(transparent)]
struct Asked(UnsafeCell<[u64; PLACES as usize]>);

// SAFETY: a place is one word, read and written whole by every processor.
unsafe impl Sync for Asked {}

#[unsafe(no_mangle)]
static ASKED: Asked = Asked(UnsafeCell::new([0; PLACES as usize]));

/// Whether this was asked before of the inode, a pointer of a type that the verifier knows, under this policy.
#[inline(always)]
pub fn before(inode: u64, policy: u32) -> bool {
    let places = ASKED.0.get().cast::<u64>();
    let inode = distance(inode, places as u64);
    let word = inode ^ u64::from(policy) << 32;
    // SAFETY: a place below `PLACES`, of a word that is never anything else.
    unsafe {
        let place = places.add((scatter(inode) % PLACES) as usize);
        let before = place.read_volatile() == word;
        place.write_volatile(word);
        before
    }
}
