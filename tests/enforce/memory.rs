//! What the kernel remembers of files and agents, seen and changed from outside.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use agent_guard_common::table::Agent;
use aya::maps::{Array, HashMap, Map, MapData, MapError};

/// What is remembered of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Remembered {
    /// 1 once it had, or was about to have, several names.
    pub linked: u64,
    /// For reading, writing and both, and each of two policies: which, and since when; or zeros.
    pub allowed: [[[u64; 2]; 2]; 3],
}

impl Remembered {
    /// Of what is there of it, what an open for reading was allowed by: since when.
    pub fn read_since(&mut self) -> Option<&mut u64> {
        let [reading, ..] = &mut self.allowed;
        reading.iter_mut().find(|[of, _]| *of != 0).map(|[_, since]| since)
    }
}

/// The maps of tier `lsm`. There is one set: all tests are of one build.
fn map(name: &str) -> PathBuf {
    let sets = fs::read_dir("/sys/fs/bpf/agent-guard").unwrap();
    let mut of_lsm = sets.map(|set| set.unwrap()).filter(|set| {
        set.file_name()
            .to_str()
            .is_some_and(|name| name.starts_with("lsm-") && !name.ends_with("-half"))
    });
    of_lsm.next().unwrap().path().join(format!("map-{name}"))
}

/// What is remembered of this file, if anything.
pub fn of(path: &Path) -> Option<Remembered> {
    let mut value = Remembered::default();
    access(LOOKUP, path, &mut value).is_ok().then_some(value)
}

/// Changes what is remembered of this file.
pub fn change(path: &Path, change: impl FnOnce(&mut Remembered)) {
    let mut value = of(path).unwrap();
    change(&mut value);
    access(UPDATE, path, &mut value).unwrap();
}

/// Commands of bpf(2).
const LOOKUP: libc::c_int = 1;
const UPDATE: libc::c_int = 2;
const OBJ_GET: libc::c_int = 7;

/// Looks up, or updates, the storage of an inode, which no crate does.
fn access(command: libc::c_int, path: &Path, value: &mut Remembered) -> io::Result<()> {
    let pin = CString::new(map("REMEMBERED").to_str().unwrap()).unwrap();
    // SAFETY: pathname, then bpf_fd and file_flags; the string lives.
    let map = unsafe { bpf(OBJ_GET, [pin.as_ptr() as u64, 0, 0, 0]) }?;
    // SAFETY: the call has just made it, and nobody else has it.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    let file = File::open(path)?;
    let key = file.as_raw_fd();
    let places = [(&raw const key) as u64, std::ptr::from_mut(value) as u64];
    // SAFETY: map_fd, key, value and flags; both places live and are as large as the map has them.
    unsafe { bpf(command, [map.as_raw_fd() as u64, places[0], places[1], 0]) }.map(drop)
}

/// # Safety
/// `attributes` are what the command takes.
unsafe fn bpf(command: libc::c_int, attributes: [u64; 4]) -> io::Result<RawFd> {
    let size = size_of_val(&attributes);
    // SAFETY: by the caller.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attributes, size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as RawFd) }
}

fn open<T: TryFrom<Map, Error = MapError>>(name: &str) -> T {
    let data = MapData::from_pin(map(name)).unwrap();
    T::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

/// Begins or ends a change of agents as a guard does.
pub fn next_generation() {
    let mut generation: Array<MapData, u32> = open("-data-generation");
    let now = generation.get(&0, 0).unwrap();
    generation.set(0, now.wrapping_add(1), 0).unwrap();
}

type Row = [u8; size_of::<Agent>()];

/// Takes all agents out, and does nothing else that a guard does then; returns what puts them back.
pub fn take_agents_out() -> impl FnOnce() {
    let mut agents: HashMap<MapData, u32, Row> = open("AGENTS");
    let there: Vec<(u32, Row)> = agents.iter().map(Result::unwrap).collect();
    there.iter().for_each(|(id, _)| agents.remove(id).unwrap());
    move || there.iter().for_each(|(id, row)| agents.insert(id, row, 0).unwrap())
}
