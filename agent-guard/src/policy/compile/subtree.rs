//! Which states decide alike for everything below: a directory may be moved between two such places, and
//! nothing of what it holds changes its verdicts.
//!
//! Partition refinement, as for the smallest automaton: states begin in one class for each row, and are
//! told apart as long as some component leads two of a class to different ones. The result may tell apart
//! what decides alike; it never joins what does not.

use std::{collections::HashMap, hash::Hash};

use agent_guard_common::table::{ACCESS_KINDS, Effect, Standing, State};

use super::alphabet::number;

/// Rounds of refinement; each needs a component that no shorter path needed, so a policy's longest pattern
/// bounds them in practice. Beyond it every state is a class of its own.
const MAX_ROUNDS: usize = 256;

/// Fills in [`State::subtree`] of `states`, whose numbers run from 1. `class_of` gives the glob class of
/// each literal symbol.
pub fn number_classes(
    states: &mut [(u32, State)],
    edges: &[(u32, u64, u32)],
    class_of: &HashMap<u64, u64>,
    default_file: [Effect; ACCESS_KINDS],
) {
    let classes = classes(states, edges, class_of, default_file);
    for ((_, row), class) in states.iter_mut().zip(classes.into_iter().skip(1)) {
        row.subtree = class;
    }
}

/// The class of each state by its number, 0 for [`agent_guard_common::table::DEAD`].
fn classes(
    states: &[(u32, State)],
    edges: &[(u32, u64, u32)],
    class_of: &HashMap<u64, u64>,
    default_file: [Effect; ACCESS_KINDS],
) -> Vec<u32> {
    let rows: Vec<&State> =
        std::iter::once(&State::NOTHING).chain(states.iter().map(|(_, row)| row)).collect();
    let mut leaving: Vec<Vec<(u64, u32)>> = vec![Vec::new(); rows.len()];
    for (from, symbol, to) in edges {
        if let Some(leaving) = leaving.get_mut(*from as usize) {
            leaving.push((*symbol, *to));
        }
    }
    for leaving in &mut leaving {
        leaving.sort_unstable();
    }

    let (mut classes, mut count) = numbered(rows.iter().map(|row| standings(row, default_file)));
    for _ in 0..MAX_ROUNDS {
        let (finer, finer_count) = numbered(
            rows.iter()
                .zip(&leaving)
                .zip(&classes)
                .map(|((row, leaving), class)| (*class, ways(row, leaving, class_of, &classes))),
        );
        if finer_count == count {
            return classes;
        }
        (classes, count) = (finer, finer_count);
    }
    (0..number(rows.len())).collect()
}

/// Numbers equal keys alike, in the order in which they come: the first key is 0.
fn numbered<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> (Vec<u32>, usize) {
    let mut numbers = HashMap::new();
    let classes = keys
        .map(|key| {
            let fresh = number(numbers.len());
            *numbers.entry(key).or_insert(fresh)
        })
        .collect();
    (classes, numbers.len())
}

/// What a row comes to: plain objects, then guarded ones, which no default opens.
fn standings(row: &State, defaults: [Effect; ACCESS_KINDS]) -> Vec<Standing> {
    let plain = row.verdicts.iter().zip(defaults);
    plain
        .map(|(verdict, default)| verdict.standing(default as u8))
        .chain(row.guarded.iter().map(|verdict| verdict.standing(Effect::Deny as u8)))
        .collect()
}

/// Where a state leads, in classes: without an edge, and by each edge that leads elsewhere than the lack of
/// it would. A literal falls back to its glob class, or, where components are not lexed, past it.
fn ways(
    row: &State,
    leaving: &[(u64, u32)],
    class_of: &HashMap<u64, u64>,
    classes: &[u32],
) -> (u32, Vec<(u64, u32)>) {
    let class = |state: u32| classes.get(state as usize).copied().unwrap_or(u32::MAX);
    let edge = |symbol: u64| {
        let found = leaving.binary_search_by_key(&symbol, |(symbol, _)| *symbol).ok()?;
        leaving.get(found).map(|(_, to)| class(*to))
    };
    let next = class(row.next);
    let told = leaving.iter().map(|(symbol, to)| (*symbol, class(*to))).filter(|(symbol, to)| {
        let by_glob = class_of.get(symbol).and_then(|glob| edge(*glob)).unwrap_or(next);
        *to != next || by_glob != *to
    });
    (next, told.collect())
}

#[cfg(test)]
mod tests {
    use agent_guard_common::table::{DEAD, Verdict};

    use super::*;

    fn row(next: u32, rule: u16) -> State {
        State { next, verdicts: [Verdict::new(Effect::Deny, rule); ACCESS_KINDS], ..State::NOTHING }
    }

    fn of(rows: &[State], edges: &[(u32, u64, u32)], class_of: &[(u64, u64)]) -> Vec<u32> {
        let states: Vec<(u32, State)> = (1..).zip(rows.iter().copied()).collect();
        let class_of = class_of.iter().copied().collect();
        classes(&states, edges, &class_of, [Effect::Deny; ACCESS_KINDS])
    }

    #[test]
    fn the_state_of_no_rule_has_class_0_and_so_has_what_is_like_it() {
        let found = of(&[State::NOTHING, row(DEAD, 1)], &[], &[]);
        assert_eq!(found[..2], [0, 0]);
        assert_ne!(found[2], 0);
    }

    #[test]
    fn rules_of_one_effect_are_alike_and_a_difference_far_below_is_not() {
        let found = of(&[row(DEAD, 1), row(DEAD, 2)], &[], &[]);
        assert_eq!(found[1], found[2]);
        // 1 and 2 are alike at first sight; by `7` and `7` they come to 5, which denies, and to nothing.
        let rows = [State::NOTHING; 4].into_iter().chain([row(DEAD, 1)]).collect::<Vec<_>>();
        let found = of(&rows, &[(1, 7, 3), (2, 7, 4), (3, 7, 5)], &[]);
        assert_ne!(found[1], found[2]);
        assert_eq!(found[2], found[4]);
    }

    #[test]
    fn an_edge_that_says_what_its_glob_class_denies_is_not_forgotten() {
        // The literal 100 of glob class 5 leads to nothing, where others of its class are denied.
        let rows = [State::NOTHING, State::NOTHING, row(DEAD, 1)];
        let found = of(&rows, &[(1, 5, 3), (1, 100, DEAD), (2, 5, 3)], &[(100, 5)]);
        assert_ne!(found[1], found[2]);
        // Where both say the same, they are alike.
        let found = of(&rows, &[(1, 100, DEAD)], &[(100, 5)]);
        assert_eq!(found[1], found[2]);
    }

    #[test]
    fn a_chain_longer_than_the_rounds_puts_every_state_in_a_class_of_its_own() {
        let length = u32::try_from(MAX_ROUNDS).unwrap() + 2;
        let mut rows: Vec<State> = (1..length).map(|state| row(state + 1, 1)).collect();
        rows.push(State::NOTHING);
        let found = of(&rows, &[], &[]);
        assert_eq!(found, (0..=length).collect::<Vec<_>>());
    }
}
