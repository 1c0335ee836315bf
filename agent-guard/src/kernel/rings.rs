//! Ring buffers.

use anyhow::Context as _;
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

use super::tables::{InstallError, in_map};

/// `BPF_MAP_TYPE_RINGBUF`, for which aya makes no map outside of an object.
const RINGBUF: u32 = 27;

/// Makes a ring buffer.
pub fn new_ring(bytes: u32) -> Result<RingBuf<MapData>, InstallError> {
    let ring = || {
        let shape = aya_obj::Map::new_from_params(RINGBUF, 0, 0, bytes, 0);
        RingBuf::try_from(Map::from_map_data(MapData::create(shape, "events", None)?)?)
    };
    ring().map_err(in_map("RINGS"))
}

/// A ring buffer of which is told when something is in it.
///
/// # Errors
/// What the system said.
pub fn readable(ring: RingBuf<MapData>) -> anyhow::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the descriptor belongs to the map that moves into the `AsyncFd`, and closes with it.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .context("watching the ring buffer")
}

/// Takes at most `most` entries, and says whether that were all.
pub fn drain(ring: &mut RingBuf<MapData>, most: usize, mut take: impl FnMut(&[u8])) -> bool {
    for _ in 0..most {
        match ring.next() {
            Some(entry) => take(&entry),
            None => return true,
        }
    }
    false
}
