//! Name globs as a byte automaton: which of them a component's name fits, found in one pass.

use std::collections::HashMap;

use agent_guard_common::{
    limits::{LEXER_CELLS, LEXER_STATES},
    table::Lexer,
};
use regex_automata::{
    Anchored, Input, MatchKind,
    dfa::{Automaton, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, syntax},
};

use super::{alphabet::number, error::CompileError};
use crate::policy::ComponentGlob;

/// Memory that the construction may take. The table that comes out has at most 16 KiB; what takes
/// this much on the way does not get there.
const BUILD_BYTES: usize = 2 << 20;

/// The table, and what its class numbers mean.
pub struct Globs {
    /// The table that the kernel reads.
    pub lexer: Box<Lexer>,
    /// The globs that each class stands for; class 0 stands for none.
    pub classes: Vec<Vec<u32>>,
}

/// Builds the table of `globs`, which are numbered by their place.
///
/// # Errors
/// [`CompileError::Globs`] where it does not fit.
pub fn build(globs: &[ComponentGlob]) -> Result<Globs, CompileError> {
    let mut lexer = Box::new(Lexer {
        classes: [0; 256],
        stride: 1,
        start: 0,
        next: [0; LEXER_CELLS],
        accept: [0; LEXER_STATES],
        writer: 0,
    });
    if globs.is_empty() {
        return Ok(Globs { lexer, classes: vec![Vec::new()] });
    }

    let dfa = determinize(globs)?;
    let byte_classes = dfa.byte_classes();
    let mut columns: Vec<u8> = Vec::new();
    for (byte, class) in (0..=u8::MAX).zip(&mut lexer.classes) {
        *class = byte_classes.get(byte);
        if usize::from(*class) == columns.len() {
            columns.push(byte);
        }
    }

    let unbounded = || CompileError::GlobsUnbounded { example: example(globs) };
    let input = Input::new(b"").anchored(Anchored::Yes);
    let start = dfa.start_state_forward(&input).map_err(|_| unbounded())?;
    let mut numbers: HashMap<StateID, u32> = HashMap::from([(start, 0)]);
    let mut order = vec![start];
    let mut rows: Vec<u32> = Vec::new();
    let mut at = 0;
    while let Some(state) = order.get(at).copied() {
        at += 1;
        for byte in &columns {
            let to = dfa.next_state(state, *byte);
            let fresh = number(order.len());
            let to_number = *numbers.entry(to).or_insert(fresh);
            if to_number == fresh {
                order.push(to);
            }
            rows.push(to_number);
        }
    }
    if order.len() > LEXER_STATES || rows.len() > LEXER_CELLS {
        return Err(CompileError::Globs {
            states: order.len(),
            cells: rows.len(),
            example: example(globs),
        });
    }

    lexer.stride = number(columns.len());
    for (cell, to) in lexer.next.iter_mut().zip(rows) {
        *cell = u16::try_from(to).map_err(|_| unbounded())?;
    }
    let mut classes = vec![Vec::new()];
    let mut known: HashMap<Vec<u32>, u16> = HashMap::from([(Vec::new(), 0)]);
    for (cell, state) in lexer.accept.iter_mut().zip(order) {
        let end = dfa.next_eoi_state(state);
        let mut fits = Vec::new();
        if dfa.is_match_state(end) {
            fits.extend((0..dfa.match_len(end)).map(|at| dfa.match_pattern(end, at).as_u32()));
            fits.sort_unstable();
        }
        *cell = match known.get(&fits) {
            Some(class) => *class,
            None => {
                let class = u16::try_from(classes.len()).map_err(|_| unbounded())?;
                known.insert(fits.clone(), class);
                classes.push(fits);
                class
            }
        };
    }
    Ok(Globs { lexer, classes })
}

fn determinize(globs: &[ComponentGlob]) -> Result<dense::DFA<Vec<u32>>, CompileError> {
    let patterns: Vec<String> = globs.iter().map(regex).collect();
    dense::Builder::new()
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .minimize(true)
                .dfa_size_limit(Some(BUILD_BYTES))
                .determinize_size_limit(Some(BUILD_BYTES)),
        )
        .syntax(syntax::Config::new().unicode(false).utf8(false).dot_matches_new_line(true))
        .thompson(thompson::Config::new().utf8(false))
        .build_many(&patterns)
        .map_err(|_| CompileError::GlobsUnbounded { example: example(globs) })
}

/// The glob as a regular expression over bytes. Every byte is written as its number, so none has a
/// meaning of its own.
fn regex(glob: &ComponentGlob) -> String {
    let pieces = glob.pieces().iter();
    let pieces: Vec<String> =
        pieces.map(|piece| piece.iter().map(|byte| format!("\\x{byte:02x}")).collect()).collect();
    format!("{}\\z", pieces.join(".*"))
}

/// The glob with the most stars, as the policy writes it.
fn example(globs: &[ComponentGlob]) -> String {
    let Some(glob) = globs.iter().rev().max_by_key(|glob| glob.pieces().len()) else {
        return String::new();
    };
    let pieces: Vec<String> =
        glob.pieces().iter().map(|piece| piece.escape_ascii().to_string()).collect();
    format!("`{}`", pieces.join("*"))
}

/// The class of `name`, found as the kernel does.
pub fn class(lexer: &Lexer, name: &[u8]) -> u64 {
    let cell = |cells: &[u16], at: usize| cells.get(at).copied().map_or(0, usize::from);
    let end = name.iter().fold(lexer.start as usize, |state, byte| {
        let class = lexer.classes.get(usize::from(*byte)).copied().unwrap_or_default();
        cell(&lexer.next, state * lexer.stride as usize + usize::from(class))
    });
    cell(&lexer.accept, end) as u64
}
