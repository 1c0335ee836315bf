//! The text of a policy: rules for people to read, with what each stands for behind it.

use std::fmt::{self, Write as _};

use agent_guard_common::event::Operation;

use super::{LeftOut, files::Patterns, network::Target, tree::Covered};
use crate::{
    event::words,
    policy::{Effect, PathPattern, Policy, PolicyName, Rule, SocketName, replay::Actions},
};

/// Most actions that the comment at the head names; there are as many on stderr.
pub const MAX_NAMED: usize = 100;

/// Everything that is written.
pub struct Draft<'a> {
    pub name: &'a PolicyName,
    pub actions: &'a Actions,
    /// Actions that it allows.
    pub distinct: usize,
    pub rules: Rules,
    /// The built-in policy, whose denials come along.
    pub shipped: &'a Policy,
    /// Whether all of them do, or only those that a pattern here comes near.
    pub all_denials: bool,
    /// Accesses and paths that patterns cover and that stay denied.
    pub held: &'a [(&'static str, String)],
    pub left_out: &'a [LeftOut],
}

/// What is allowed.
pub struct Rules {
    pub files: Patterns,
    pub egress: Vec<Target>,
    pub listen: Vec<Target>,
    /// With their `@`, and their events.
    pub abstract_sockets: Vec<(String, u64)>,
    pub operations: Vec<(Operation, u64)>,
}

/// Leaves a policy its denials.
pub fn only_denials(policy: &mut Policy) {
    fn keep<M>(rules: &mut Vec<Rule<M>>) {
        rules.retain(|rule| rule.effect == Effect::Deny);
    }
    keep(&mut policy.egress.rules);
    keep(&mut policy.exec.rules);
    keep(&mut policy.files.rules);
    keep(&mut policy.listen.rules);
    keep(&mut policy.unix.rules);
    keep(&mut policy.system.rules);
}

/// A part of the tree, as rules are named after it.
const AREAS: [(&str, &[&str]); 5] = [
    ("kernel", &["/proc", "/sys", "/dev"]),
    ("homes", &["/home", "/root"]),
    ("temporary", &["/tmp", "/var/tmp", "/dev/shm"]),
    ("settings", &["/etc"]),
    ("system", &["/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/nix", "/snap"]),
];

impl Draft<'_> {
    /// The file.
    pub fn write(&self) -> String {
        let mut text = String::new();
        // Writing to a string can not fail.
        let _ = self.write_to(&mut text);
        text
    }

    fn write_to(&self, out: &mut String) -> fmt::Result {
        self.head(out)?;
        writeln!(out, "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy")?;
        writeln!(out, "metadata:\n  name: {}\nspec:\n  mode: enforce", self.name)?;
        self.egress(out)?;
        self.listen(out)?;
        self.unix(out)?;
        self.system(out)?;
        self.exec(out)?;
        self.files(out)
    }

    fn head(&self, out: &mut String) -> fmt::Result {
        let events = self.actions.events();
        writeln!(
            out,
            "# Made by `agent-guard policy generate` from {events} events; it allows {} actions.",
            self.distinct
        )?;
        writeln!(out, "# The number behind an entry is how many events it stands for.")?;
        if !self.all_denials {
            writeln!(
                out,
                "# Denials of the built-in policy that no entry comes near are left to `default: deny`."
            )?;
        }
        if !self.left_out.is_empty() {
            writeln!(out, "#\n# Left out, and so denied:")?;
        }
        for LeftOut { question, events, why } in self.left_out.iter().take(MAX_NAMED) {
            writeln!(out, "#   {question} ({events}): {why}")?;
        }
        match self.left_out.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => writeln!(out, "#   and {more} more"),
        }
    }

    fn egress(&self, out: &mut String) -> fmt::Result {
        if self.rules.egress.is_empty() {
            return Ok(());
        }
        section(out, "egress")?;
        let (names, addresses): (Vec<&Target>, Vec<&Target>) =
            self.rules.egress.iter().partition(|target| target.is_name);
        for (name, targets) in [("hosts", names), ("addresses", addresses)] {
            let entries = targets.iter().map(|target| (target.text.as_str(), target.events));
            rule(out, &Head::allow(name), "to", entries)?;
        }
        for denial in &self.shipped.egress.rules {
            let entries = denial.matcher.iter().map(|target| target.text.as_str());
            built_in(out, denial, "to", entries)?;
        }
        Ok(())
    }

    fn listen(&self, out: &mut String) -> fmt::Result {
        if self.rules.listen.is_empty() {
            return Ok(());
        }
        section(out, "listen")?;
        let entries = self.rules.listen.iter().map(|target| (target.text.as_str(), target.events));
        rule(out, &Head::allow("servers"), "on", entries)
    }

    fn unix(&self, out: &mut String) -> fmt::Result {
        let Rules { files, abstract_sockets, .. } = &self.rules;
        if files.sockets.is_empty() && abstract_sockets.is_empty() {
            return Ok(());
        }
        section(out, "unix")?;
        let paths = files.sockets.iter().map(|path| (path.pattern.as_str(), path.done.reads));
        let names = abstract_sockets.iter().map(|(name, events)| (name.as_str(), *events));
        rule(out, &Head::allow("sockets"), "paths", paths.chain(names))?;
        for denial in &self.shipped.unix.rules {
            let entries = self.near(denial.matcher.iter().map(SocketName::pattern), &files.sockets);
            built_in(out, denial, "paths", entries.into_iter())?;
        }
        Ok(())
    }

    fn system(&self, out: &mut String) -> fmt::Result {
        if self.rules.operations.is_empty() {
            return Ok(());
        }
        section(out, "system")?;
        let operations = self.rules.operations.iter();
        let entries = operations.map(|(operation, events)| (words::operation(*operation), *events));
        rule(out, &Head::allow("operations"), "operations", entries)
    }

    fn exec(&self, out: &mut String) -> fmt::Result {
        let run = &self.rules.files.run;
        if run.is_empty() {
            return Ok(());
        }
        section(out, "exec")?;
        rule(
            out,
            &Head::allow("programs"),
            "paths",
            run.iter().map(|path| (path.pattern.as_str(), path.done.reads)),
        )?;
        for denial in &self.shipped.exec.rules {
            let entries = self.near(denial.matcher.paths.iter(), run);
            built_in(out, denial, "paths", entries.into_iter())?;
        }
        Ok(())
    }

    fn files(&self, out: &mut String) -> fmt::Result {
        let Patterns { read, write, read_write, .. } = &self.rules.files;
        if read.is_empty() && write.is_empty() && read_write.is_empty() {
            return Ok(());
        }
        section(out, "files")?;
        for (verb, access, patterns) in [
            ("read", "read", read),
            ("change", "read, write", read_write),
            ("write", "write", write),
        ] {
            for (area, patterns) in areas(patterns) {
                let name = format!("{verb}-{area}");
                let head = Head { name: &name, access: Some(access), ..Head::allow(verb) };
                let events = |done: super::tree::Done| done.reads.max(done.writes);
                let entries =
                    patterns.iter().map(|path| (path.pattern.as_str(), events(path.done)));
                rule(out, &head, "paths", entries)?;
            }
        }
        for access in ["read", "write", "read, write"] {
            let of_kind = self.held.iter().filter(|(held, _)| *held == access);
            let head = Head { name: "left-out", effect: "deny", class: None, access: Some(access) };
            rule(out, &head, "paths", of_kind.map(|(_, path)| (path.as_str(), 0)))?;
        }
        let all = [&read[..], write, read_write].concat();
        for denial in &self.shipped.files.rules {
            let entries = self.near(denial.matcher.paths.iter(), &all);
            built_in(out, denial, "paths", entries.into_iter())?;
        }
        Ok(())
    }

    /// Entries of a denial: all, or those that may cover what `allowed` does.
    fn near<'p>(
        &self,
        denied: impl Iterator<Item = &'p PathPattern>,
        allowed: &[Covered],
    ) -> Vec<&'p str> {
        let allowed: Vec<PathPattern> =
            allowed.iter().filter_map(|path| PathPattern::parse(&path.pattern).ok()).collect();
        denied
            .filter(|denied| self.all_denials || allowed.iter().any(|one| one.may_meet(denied)))
            .map(|denied| denied.text.as_str())
            .collect()
    }
}

/// Patterns by where they lie, in order.
fn areas(patterns: &[Covered]) -> Vec<(&'static str, Vec<&Covered>)> {
    let area = |pattern: &str| {
        let below = |root: &&str| {
            pattern.strip_prefix(*root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let of = AREAS.iter().filter_map(|(name, roots)| {
            roots.iter().filter(|root| below(root)).map(|root| (root.len(), *name)).max()
        });
        of.max().map_or("files", |(_, name)| name)
    };
    let names = AREAS.iter().map(|(name, _)| *name).chain(["files"]);
    names
        .map(|name| (name, patterns.iter().filter(|path| area(&path.pattern) == name).collect()))
        .filter(|(_, patterns): &(_, Vec<&Covered>)| !patterns.is_empty())
        .collect()
}

fn section(out: &mut String, name: &str) -> fmt::Result {
    writeln!(out, "  {name}:\n    default: deny\n    rules:")
}

/// The fields of a rule but for its list.
struct Head<'a> {
    name: &'a str,
    effect: &'static str,
    class: Option<&'a str>,
    access: Option<&'a str>,
}

impl<'a> Head<'a> {
    fn allow(name: &'a str) -> Self {
        Self { name, effect: "allow", class: None, access: None }
    }
}

/// A rule, where it has entries.
fn rule<'a>(
    out: &mut String,
    head: &Head<'_>,
    list: &str,
    entries: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let mut entries = entries.peekable();
    if entries.peek().is_none() {
        return Ok(());
    }
    let Head { name, effect, class, access } = head;
    writeln!(out, "      - name: {name}\n        effect: {effect}")?;
    if let Some(class) = class {
        writeln!(out, "        class: {class}")?;
    }
    if let Some(access) = access {
        writeln!(out, "        access: [{access}]")?;
    }
    writeln!(out, "        {list}:")?;
    for (entry, events) in entries {
        // Within single quotes YAML has no escapes.
        write!(out, "          - '{}'", entry.replace('\'', "''"))?;
        match events {
            0 => out.push('\n'),
            events => writeln!(out, "  # {events}")?,
        }
    }
    Ok(())
}

/// A denial of the built-in policy, as it stands there.
fn built_in<'a, M>(
    out: &mut String,
    denial: &'a Rule<M>,
    list: &str,
    entries: impl Iterator<Item = &'a str>,
) -> fmt::Result {
    if denial.effect != Effect::Deny {
        return Ok(());
    }
    let head = Head {
        name: denial.name.as_deref().unwrap_or("built-in"),
        effect: "deny",
        class: denial.class.as_deref(),
        access: None,
    };
    rule(out, &head, list, entries.map(|entry| (entry, 0)))
}
