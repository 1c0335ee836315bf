//! How full the maps are. The kernel does not say, so their entries are counted one by one.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, MapError, RingBuf};
use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};
use serde::{Deserialize, Serialize};

use super::pins::Pins;

/// The maps that have a bound and fill with agents, policies and what those do.
const MAPS: [&str; 12] = [
    "AGENTS",
    "AGENT_OF_CGROUP",
    "LEXERS",
    "STARTS",
    "STATES",
    "EDGES",
    "ALIASES",
    "PINS",
    "PREFIXES",
    "INTERVALS",
    "LEASES",
    "TERMINALS",
];

/// How full something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// What: a map.
    pub name: String,
    /// What is in it: entries; of a ring buffer, bytes.
    pub used: u64,
    /// What there is room for.
    pub capacity: u64,
}

/// Counts the entries of every map. Where others write meanwhile some may be missed or counted twice. Takes some
/// hundred nanoseconds an entry.
///
/// # Errors
/// A map can not be read; which.
pub fn maps(pins: &Pins) -> anyhow::Result<Vec<Fill>> {
    let fill = |name: &&str| {
        let failed = |error: MapError| anyhow::anyhow!("counting the entries of {name}: {error}");
        let map = pins.map_data(name).map_err(failed)?;
        let info = map.info().map_err(failed)?;
        let capacity = u64::from(info.max_entries());
        let used = entries(map.fd().as_fd(), info.key_size(), capacity)
            .map_err(|error| anyhow::anyhow!("counting the entries of {name}: {error}"))?;
        Ok(Fill { name: (*name).to_owned(), used, capacity })
    };
    MAPS.iter().map(fill).collect()
}

/// `BPF_MAP_GET_NEXT_KEY` (`enum bpf_cmd` in `include/uapi/linux/bpf.h`).
const MAP_GET_NEXT_KEY: libc::c_int = 4;

/// What that command takes (`union bpf_attr`).
#[repr(C)]
struct NextKey {
    map: u32,
    padding: u32,
    key: u64,
    next: u64,
}

/// Entries of a map whose keys have `key_size` bytes; `capacity` where a key that is removed under way leads back
/// to the first one again and again.
fn entries(map: BorrowedFd<'_>, key_size: u32, capacity: u64) -> io::Result<u64> {
    let (mut key, mut next) = (vec![0_u8; key_size as usize], vec![0_u8; key_size as usize]);
    for count in 0..capacity {
        let of = if count == 0 { ptr::null() } else { key.as_ptr() };
        let attr = NextKey {
            map: map.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: of.expose_provenance() as u64,
            next: next.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the kernel reads `size_of::<NextKey>()` bytes at `attr`, a key at `key`, and writes one to `next`;
        // both have the map's own size and outlive the call.
        let got = unsafe {
            libc::syscall(libc::SYS_bpf, MAP_GET_NEXT_KEY, &raw const attr, size_of::<NextKey>())
        };
        if got < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ENOENT) { Ok(count) } else { Err(error) };
        }
        std::mem::swap(&mut key, &mut next);
    }
    Ok(capacity)
}

/// The positions of a ring buffer's reader and writers.
pub struct Positions {
    consumer: *mut AtomicU64,
    producer: *mut AtomicU64,
    capacity: u64,
}

impl Positions {
    /// Of `ring`, which has room for `capacity` bytes.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn of(ring: &RingBuf<MapData>, capacity: usize) -> io::Result<Self> {
        let page = |number: usize| {
            let offset = (number * page_size()) as u64;
            // SAFETY: a new mapping where the kernel likes; nothing of ours lies there.
            unsafe {
                mmap(
                    ptr::null_mut(),
                    page_size(),
                    ProtFlags::READ,
                    MapFlags::SHARED,
                    // SAFETY: `ring` is open for as long as it is borrowed.
                    BorrowedFd::borrow_raw(ring.as_raw_fd()),
                    offset,
                )
            }
        };
        let consumer: *mut AtomicU64 = page(0)?.cast();
        let producer = match page(1) {
            Ok(producer) => producer.cast(),
            Err(error) => {
                // SAFETY: made just now, and of no use to anybody.
                let _ = unsafe { munmap(consumer.cast(), page_size()) };
                return Err(error.into());
            }
        };
        Ok(Self { consumer, producer, capacity: capacity as u64 })
    }

    /// What waits to be read.
    pub fn fill(&self) -> Fill {
        // SAFETY: both are mapped for as long as this is there; the kernel writes whole words there.
        let (consumer, producer) = unsafe { (&*self.consumer, &*self.producer) };
        let read = consumer.load(Ordering::Acquire);
        let used = producer.load(Ordering::Acquire).saturating_sub(read).min(self.capacity);
        Fill { name: "events".to_owned(), used, capacity: self.capacity }
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        for page in [self.consumer, self.producer] {
            // SAFETY: mapped by `of`, and nobody has a reference to it.
            let _ = unsafe { munmap(page.cast(), page_size()) };
        }
    }
}
