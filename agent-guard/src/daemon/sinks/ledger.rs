//! What a daemon that is killed takes with it: two numbers in memory that outlives it, so that the next one tells of
//! what was lost. After a boot they are gone.

use std::{
    fs::File,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// What is in the file. Another version, or another file, begins otherwise.
#[repr(C)]
#[derive(Debug, Default)]
struct Cells {
    magic: AtomicU64,
    in_memory: AtomicU64,
    untold: AtomicU64,
}

const MAGIC: u64 = u64::from_le_bytes(*b"agsinks1");

/// Lines of a sink that are nowhere but in memory, and lost ones that no notice in safety tells of.
#[derive(Debug)]
pub struct Ledger(&'static Cells);

impl Ledger {
    /// Takes over what stands in `file`, which has the size of a page from here on. What comes beside it is how many
    /// lines the last daemon had in memory: they are lost, and not told of.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(file: &File) -> io::Result<(Self, u64)> {
        let length = rustix::param::page_size();
        file.set_len(length as u64)?;
        // SAFETY: the address is the kernel's to choose, so nothing that is there is changed.
        let page = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        // SAFETY: the page is aligned, larger than `Cells`, never unmapped, and reached through atomics only; any bits
        // are numbers. The file is root's in a directory of root's, and nobody makes it shorter.
        let cells: &'static Cells =
            unsafe { page.cast::<Cells>().as_ref() }.ok_or(io::ErrorKind::AddrNotAvailable)?;
        if cells.magic.swap(MAGIC, Relaxed) != MAGIC {
            cells.in_memory.store(0, Relaxed);
            cells.untold.store(0, Relaxed);
        }
        let gone = cells.in_memory.swap(0, Relaxed);
        Ok((Self(cells), gone))
    }

    /// One that ends with the process.
    #[cfg(test)]
    #[must_use]
    pub fn private() -> Self {
        Self(Box::leak(Box::default()))
    }

    /// A line is about to be in memory.
    pub fn enter(&self) {
        self.0.in_memory.fetch_add(1, Relaxed);
    }

    /// Lines are in memory no more.
    pub fn leave(&self, lines: u64) {
        subtract(&self.0.in_memory, lines);
    }

    /// Lost lines that no notice in safety tells of.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.0.untold.load(Relaxed)
    }

    /// Lines are lost.
    pub fn owe(&self, lines: u64) {
        self.0.untold.fetch_add(lines, Relaxed);
    }

    /// A notice of so many is in safety.
    pub fn tell(&self, lines: u64) {
        subtract(&self.0.untold, lines);
    }
}

fn subtract(cell: &AtomicU64, lines: u64) {
    // Numbers that somebody else wrote end at nothing, not at 2^64.
    let _ = cell.fetch_update(Relaxed, Relaxed, |number| Some(number.saturating_sub(lines)));
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_a_daemon_had_in_memory_is_known_to_the_next() {
        let file = tempfile::tempfile().unwrap();
        let (ledger, gone) = Ledger::open(&file).unwrap();
        assert_eq!((gone, ledger.untold()), (0, 0));
        (0..5).for_each(|_| ledger.enter());
        ledger.leave(2);
        ledger.owe(7);
        ledger.tell(3);

        // The first one ends without a word.
        let (ledger, gone) = Ledger::open(&file).unwrap();
        assert_eq!((gone, ledger.untold()), (3, 4));
        ledger.tell(9);
        let (ledger, gone) = Ledger::open(&file).unwrap();
        assert_eq!((gone, ledger.untold()), (0, 0));
    }

    #[test]
    fn another_file_counts_for_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0xff; 5000]).unwrap();
        let (ledger, gone) = Ledger::open(&file).unwrap();
        assert_eq!((gone, ledger.untold()), (0, 0));
    }
}
