//! The path patterns of a policy in every form that the kernel can meet.

use std::collections::HashMap;

use agent_guard_common::table::{ACCESS_KINDS, Access, Effect, Verdict};

use super::{
    Environment,
    alphabet::Alphabet,
    links::{follow_pattern, to_std},
    mounts::{Path, follow},
    nfa::{Builder, Nfa, Root},
    note::Note,
    rules::{RuleInfo, exec_id, file_id, rule_ref, unix_id},
    verdict::Accept,
};
use crate::policy::{self, PathPattern, Policy, Segment, SocketName};

/// One form of one pattern.
#[derive(Clone, Debug)]
pub struct Form<'a> {
    /// The pattern as the author wrote it.
    pub pattern: &'a PathPattern,
    /// What the kernel sees of it.
    pub segments: Vec<Segment>,
    /// What it says.
    pub accept: Accept,
}

/// All forms of all path patterns, in the order of the file.
///
/// An allowance follows a link only where the agent could not have planted it: a link that this very
/// policy lets it write would widen the policy at the next load.
pub fn forms<'a>(
    policy: &'a Policy,
    rules: &[RuleInfo],
    environment: &Environment<'_>,
    notes: &mut Vec<Note>,
) -> Vec<Form<'a>> {
    let mut plain = Vec::new();
    let mut linked: Vec<(Form<'a>, Vec<Path>)> = Vec::new();
    for (pattern, accept) in patterns(policy) {
        match follow_pattern(&pattern.segments, environment.links) {
            Ok(None) => {}
            Ok(Some((segments, links))) => {
                let segments = as_kernel_sees(segments);
                linked.push((Form { pattern, segments, accept }, links));
            }
            Err(error) => notes.push(Note::Unreadable {
                rule: rule_ref(rules, accept.rule),
                pattern: pattern.text.clone(),
                error: error.to_string(),
            }),
        }
        let segments = as_kernel_sees(pattern.segments.clone());
        plain.push(Form { pattern, segments, accept });
    }
    if linked.is_empty() {
        return plain;
    }

    let mut writable =
        Writable::new(policy, plain.iter().chain(linked.iter().map(|(form, _)| form)));
    let (mut planted, mut sound) = (Vec::new(), Vec::new());
    for (form, links) in linked {
        let by_agent = match form.accept.effect {
            Effect::Deny => None,
            Effect::Allow => links.into_iter().find(|link| writable.is(link, environment)),
        };
        match by_agent {
            Some(link) => planted.push((form, link)),
            None => sound.push(form),
        }
    }
    notes.extend(planted.into_iter().map(|(form, link)| Note::NotFollowed {
        rule: rule_ref(rules, form.accept.rule),
        pattern: form.pattern.text.clone(),
        link: to_std(&link),
    }));
    notes.extend(sound.iter().map(|form| Note::Followed {
        rule: rule_ref(rules, form.accept.rule),
        pattern: form.pattern.text.clone(),
        resolved: display(&form.segments),
    }));
    plain.extend(sound);
    plain
}

/// Every path pattern with what it says.
fn patterns(policy: &Policy) -> impl Iterator<Item = (&PathPattern, Accept)> {
    let exec = policy.exec.rules.iter().enumerate().flat_map(move |(index, rule)| {
        let id = exec_id(policy, index);
        let access = [false, false, true, false];
        let pinned = rule.matcher.pin.is_some();
        let accept = move |pattern| accept(pattern, id, rule.effect, access);
        let paths = rule.matcher.paths.iter();
        paths.map(move |pattern| (pattern, Accept { pinned, ..accept(pattern) }))
    });
    let files = policy.files.rules.iter().enumerate().flat_map(move |(index, rule)| {
        let id = file_id(policy, index);
        let access = [rule.matcher.access.read(), rule.matcher.access.write(), false, false];
        let paths = rule.matcher.paths.iter();
        paths.map(move |pattern| (pattern, accept(pattern, id, rule.effect, access)))
    });
    let sockets = policy.unix.rules.iter().enumerate().flat_map(move |(index, rule)| {
        let paths = rule.matcher.iter().filter_map(|name| match name {
            SocketName::Path(pattern) => Some(pattern),
            SocketName::Abstract(_) => None,
        });
        paths.map(move |pattern| (pattern, socket_accept(policy, index, pattern)))
    });
    exec.chain(files).chain(sockets)
}

/// Every pattern of abstract socket names with what it says.
pub fn abstract_names(policy: &Policy) -> impl Iterator<Item = (&PathPattern, Accept)> {
    policy.unix.rules.iter().enumerate().flat_map(move |(index, rule)| {
        let names = rule.matcher.iter().filter_map(|name| match name {
            SocketName::Path(_) => None,
            SocketName::Abstract(pattern) => Some(pattern),
        });
        names.map(move |pattern| (pattern, socket_accept(policy, index, pattern)))
    })
}

fn socket_accept(policy: &Policy, index: usize, pattern: &PathPattern) -> Accept {
    let effect = policy.unix.rules.get(index).map_or(policy::Effect::Deny, |rule| rule.effect);
    accept(pattern, unix_id(policy, index), effect, [false, false, false, true])
}

fn accept(
    pattern: &PathPattern,
    rule: u16,
    effect: crate::policy::Effect,
    access: [bool; ACCESS_KINDS],
) -> Accept {
    let exact = pattern.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)));
    Accept { rule, effect: effect.into(), access, exact, pinned: false }
}

/// `/proc/thread-self` is a link to a thread's directory inside its process's.
fn as_kernel_sees(mut segments: Vec<Segment>) -> Vec<Segment> {
    if let [Segment::Literal(proc), Segment::Literal(thread), ..] = segments.as_slice()
        && **proc == *b"proc"
        && **thread == *b"thread-self"
    {
        let literal = |name: &[u8]| Segment::Literal(name.into());
        segments.splice(1..2, [literal(b"self"), literal(b"task"), Segment::AnyOne]);
    }
    segments
}

/// The places that the policy lets the agent write, were all its links followed.
struct Writable {
    alphabet: Alphabet,
    nfa: Nfa,
    default: Effect,
    known: HashMap<Path, bool>,
}

impl Writable {
    fn new<'a>(policy: &Policy, forms: impl Iterator<Item = &'a Form<'a>>) -> Self {
        let mut alphabet = Alphabet::default();
        let mut builder = Builder::new();
        for form in forms {
            if let Accept { access: [_, true, ..], .. } = form.accept {
                builder.add(&mut alphabet, &form.segments, form.accept);
            }
        }
        let default = policy.files.default.into();
        Self { alphabet, nfa: builder.finish(), default, known: HashMap::new() }
    }

    /// Whether the agent may replace the directory entry at `path`, or one above it, by any name.
    fn is(&mut self, path: &[Box<[u8]>], environment: &Environment<'_>) -> bool {
        (1..=path.len()).any(|depth| {
            let entry = path.get(..depth).unwrap_or_default();
            if let Some(known) = self.known.get(entry) {
                return *known;
            }
            let aliases = environment.filesystems.aliases(entry);
            let writable = aliases.iter().any(|name| self.by_name(name));
            self.known.insert(entry.to_vec(), writable);
            writable
        })
    }

    fn by_name(&self, name: &[Box<[u8]>]) -> bool {
        let end = follow(&self.nfa, &self.alphabet, Root::All, name);
        let [_, write, ..]: [Verdict; ACCESS_KINDS] = self.nfa.verdict(&end).plain();
        const _: () = assert!(Access::Write as usize == 1);
        write.effect().unwrap_or(self.default) == Effect::Allow
    }
}

/// A pattern as the policy would write it.
fn display(segments: &[Segment]) -> String {
    let mut text = String::new();
    for segment in segments {
        text.push('/');
        match segment {
            Segment::Literal(name) => text.push_str(&name.escape_ascii().to_string()),
            Segment::Glob(glob) => {
                let pieces: Vec<String> =
                    glob.pieces().iter().map(|piece| piece.escape_ascii().to_string()).collect();
                text.push_str(&pieces.join("*"));
            }
            Segment::AnyOne => text.push('*'),
            Segment::AnyDepth => text.push_str("**"),
        }
    }
    if text.is_empty() { "/".to_owned() } else { text }
}
