//! Names and globs by number.

use std::collections::HashMap;

use crate::policy::ComponentGlob;

/// Every name and glob that the patterns mention, numbered.
#[derive(Default)]
pub struct Alphabet {
    literals: HashMap<Box<[u8]>, u32>,
    glob_ids: HashMap<Box<[Box<[u8]>]>, u32>,
    globs: Vec<ComponentGlob>,
}

impl Alphabet {
    /// The number of a name.
    pub fn literal(&mut self, name: &[u8]) -> u32 {
        let fresh = number(self.literals.len());
        *self.literals.entry(name.into()).or_insert(fresh)
    }

    /// The number of a glob.
    pub fn glob(&mut self, glob: &ComponentGlob) -> u32 {
        let fresh = number(self.globs.len());
        let id = *self.glob_ids.entry(glob.pieces().into()).or_insert(fresh);
        if id == fresh {
            self.globs.push(glob.clone());
        }
        id
    }

    /// All names, by number.
    pub fn literals(&self) -> Vec<&[u8]> {
        let mut all: Vec<_> = self.literals.iter().collect();
        all.sort_unstable_by_key(|(_, id)| **id);
        all.into_iter().map(|(name, _)| &**name).collect()
    }

    /// All globs, by number.
    pub fn globs(&self) -> &[ComponentGlob] {
        &self.globs
    }

    /// A name as the automaton sees it: its number, and the globs that it fits.
    pub fn read(&self, name: &[u8]) -> (Option<u32>, Vec<u32>) {
        let fits = self.globs.iter().enumerate().filter(|(_, glob)| glob.matches(name));
        (self.literals.get(name).copied(), fits.map(|(id, _)| number(id)).collect())
    }
}

/// A count as an id. Policies are bounded far below four billion of anything.
pub fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
