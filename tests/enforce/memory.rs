//! What the kernel remembers of files and agents, seen and changed from outside.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use agent_guard_common::table::Agent;
use aya::maps::{Array, HashMap, InodeStorage, Map, MapData, MapError};

/// What is remembered of one file: 1 once it had, or was about to have, several names; then for reading, writing
/// both, running and loading, and each of two policies, which and since when, or zeros.
type Words = [u64; 21];

/// What is remembered of one file.
#[derive(Debug)]
pub struct Remembered(Words);

impl Remembered {
    /// Whether the file had, or was about to have, several names.
    pub fn is_linked(&self) -> bool {
        self.0[0] != 0
    }

    /// Since when it is remembered that an open for reading was allowed, if it is.
    pub fn read_since(&mut self) -> Option<&mut u64> {
        let reading = self.0[1..5].chunks_exact_mut(2);
        reading.filter(|allowed| allowed[0] != 0).map(|allowed| &mut allowed[1]).next()
    }
}

/// What is remembered of this file, if anything.
pub fn of(path: &Path) -> Option<Remembered> {
    storage().get(&File::open(path).unwrap(), 0).ok().map(Remembered)
}

/// Changes what is remembered of this file.
pub fn change(path: &Path, change: impl FnOnce(&mut Remembered)) {
    let mut remembered = of(path).unwrap();
    change(&mut remembered);
    storage().insert(&File::open(path).unwrap(), remembered.0, 0).unwrap();
}

fn storage() -> InodeStorage<MapData, Words> {
    open("REMEMBERED")
}

/// Opens a map of tier `lsm`. There is one set: all tests are of one build.
fn open<T: TryFrom<Map, Error = MapError>>(name: &str) -> T {
    let sets = fs::read_dir("/sys/fs/bpf/agent-guard").unwrap().map(|set| set.unwrap().path());
    let is_of_lsm = |set: &PathBuf| {
        let name = set.file_name().unwrap().to_str().unwrap();
        name.starts_with("lsm-") && !name.ends_with("-half")
    };
    let set = sets.filter(is_of_lsm).next().unwrap();
    let data = MapData::from_pin(set.join(format!("map-{name}"))).unwrap();
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
