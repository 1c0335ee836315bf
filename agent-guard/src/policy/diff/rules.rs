//! The rules that were added, removed and changed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    event::words,
    policy::{
        AccessSet, Effect, Pin, Policy, Rule, Section, SectionKind, Selector, SocketName, Target,
    },
};

/// A difference between two policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What became of it.
    pub kind: Kind,
    /// What it is: a rule by its section and name, or a field.
    pub what: String,
    /// What was there and is not any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// What is there now and was not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
}

/// What became of a rule or a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only the new policy has it.
    Added,
    /// Only the old one has it.
    Removed,
    /// Both have it, and it says something else.
    Changed,
}

/// Everything that `new` says otherwise than `old`. A rule is the same where it has the same name in its section, or
/// without a name where it says the same; the order of rules means nothing.
#[must_use]
pub fn diff_rules(old: &Policy, new: &Policy) -> Vec<Difference> {
    let mut found = Vec::new();
    field(&mut found, "mode", [old.mode.name(), new.mode.name()]);
    selector(&mut found, &old.selector, &new.selector);
    section(&mut found, SectionKind::Egress, [&old.egress, &new.egress], |to| targets(to));
    section(&mut found, SectionKind::Exec, [&old.exec, &new.exec], |exec| {
        let pin = exec.pin.map(|pin| match pin {
            Pin::AsLoaded => "pin true".to_owned(),
            Pin::Sha256(digest) => format!("pin sha256:{}", crate::bytes::hexadecimal(&digest)),
        });
        exec.paths.iter().map(|path| path.text.clone()).chain(pin).collect()
    });
    section(&mut found, SectionKind::Files, [&old.files, &new.files], |files| {
        let access = match files.access {
            AccessSet::Read => "access read",
            AccessSet::Write => "access write",
            AccessSet::ReadWrite => "access read and write",
        };
        let paths = files.paths.iter().map(|path| path.text.clone());
        paths.chain([access.to_owned()]).collect()
    });
    section(&mut found, SectionKind::Listen, [&old.listen, &new.listen], |on| targets(on));
    section(&mut found, SectionKind::Unix, [&old.unix, &new.unix], |names: &Vec<SocketName>| {
        names.iter().map(|name| name.pattern().text.clone()).collect()
    });
    section(&mut found, SectionKind::System, [&old.system, &new.system], |operations| {
        operations.iter().map(|one| words::operation(*one).to_owned()).collect()
    });
    found
}

/// `*` is several targets with one text.
fn targets(targets: &[Target]) -> Vec<String> {
    targets.iter().map(|target| target.text.clone()).collect()
}

/// Which workloads it is for; of cgroups also which.
fn selector(found: &mut Vec<Difference>, old: &Selector, new: &Selector) {
    let cgroups = |these: &Selector, those: &Selector| -> Vec<String> {
        let gone = these.cgroups.iter().filter(|one| !those.cgroups.contains(one));
        gone.map(|pattern| format!("cgroup {pattern}")).collect()
    };
    if old != new {
        let (removed, added) = (cgroups(old, new), cgroups(new, old));
        let what = "selector".to_owned();
        found.push(Difference { kind: Kind::Changed, what, removed, added });
    }
}

fn section<M>(
    found: &mut Vec<Difference>,
    kind: SectionKind,
    [old, new]: [&Section<M>; 2],
    entries: impl Fn(&M) -> Vec<String>,
) {
    field(found, &format!("{kind} default"), [old, new].map(|section| word(section.default)));
    let listed = |section: &Section<M>| -> BTreeMap<String, Vec<String>> {
        let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for rule in &section.rules {
            let said = said(rule, entries(&rule.matcher));
            let key = match &rule.name {
                Some(name) => format!("{kind} rule `{name}`"),
                None => format!("{kind} rule without a name: {}", said.join(", ")),
            };
            rules.entry(key).or_default().extend(said);
        }
        rules
    };
    let (old, new) = (listed(old), listed(new));
    let mut all: Vec<&String> = old.keys().chain(new.keys()).collect();
    all.sort();
    all.dedup();
    for what in all {
        match (old.get(what), new.get(what)) {
            (Some(before), Some(after)) => changed(found, what, before, after),
            (Some(before), None) => found.push(Difference {
                kind: Kind::Removed,
                what: what.clone(),
                removed: before.clone(),
                added: Vec::new(),
            }),
            (None, Some(after)) => found.push(Difference {
                kind: Kind::Added,
                what: what.clone(),
                removed: Vec::new(),
                added: after.clone(),
            }),
            (None, None) => {}
        }
    }
}

/// A rule as lines, the effect first.
fn said<M>(rule: &Rule<M>, mut entries: Vec<String>) -> Vec<String> {
    entries.sort();
    entries.dedup();
    let class = rule.class.iter().map(|class| format!("class {class}"));
    let effect = word(rule.effect).to_owned();
    [effect].into_iter().chain(class).chain(entries).collect()
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Deny => "deny",
        Effect::Allow => "allow",
    }
}

fn field(found: &mut Vec<Difference>, what: &str, [old, new]: [&str; 2]) {
    changed(found, what, &[old.to_owned()], &[new.to_owned()]);
}

fn changed(found: &mut Vec<Difference>, what: &str, old: &[String], new: &[String]) {
    let without = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|one| !those.contains(one)).cloned().collect()
    };
    let (removed, added) = (without(old, new), without(new, old));
    if !removed.is_empty() || !added.is_empty() {
        found.push(Difference { kind: Kind::Changed, what: what.to_owned(), removed, added });
    }
}
