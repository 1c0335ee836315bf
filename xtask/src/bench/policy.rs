//! A policy of any number of rules, of which few concern the work.

use std::{fmt::Write as _, path::PathBuf};

use super::work::DISCARD;

/// How many rules the policies have.
pub const RULES: [u32; 3] = [10, 1_000, 10_000];
/// The fewest of them.
pub const FEW: u32 = 10;
/// What most is measured under.
pub const USUAL: u32 = 1_000;
/// The most of them.
pub const MANY: u32 = 10_000;

/// Rules that the work needs, of every policy here.
const NEEDED: u32 = 6;

/// What the work comes by beside the system's own files.
pub struct Needs {
    /// The directory that it is done in.
    pub root: PathBuf,
    /// A toolchain.
    pub tools: PathBuf,
    /// The port of a mirror on loopback.
    pub mirror: Option<u16>,
}

/// A policy with `rules` rules in all; half of those that nothing comes by are about files and half about networks.
pub fn text(rules: u32, needs: &Needs) -> String {
    let more = rules.saturating_sub(NEEDED);
    let (networks, files) = (more / 2, more - more / 2);
    let (root, tools) = (needs.root.display(), needs.tools.display());
    let mirror = needs.mirror.map(|port| format!(", '127.0.0.1:{port}/tcp'")).unwrap_or_default();
    let mut text = format!(
        "apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {{name: bench}}
spec:
  exec:
    rules:
      - {{name: programs, effect: allow, paths: ['/usr/**', '/src/**', '{tools}/**', '{root}/**']}}
  egress:
    rules:
      - {{name: discard, effect: allow, to: ['127.0.0.1:{DISCARD}/udp'{mirror}]}}
"
    );
    for n in 0..networks {
        let (a, b) = (n / 256, n % 256);
        _ = writeln!(
            text,
            "      - {{name: network-{n}, effect: allow, to: ['10.{a}.{b}.0/24:443/tcp']}}"
        );
    }
    _ = write!(
        text,
        "  files:
    rules:
      - {{name: system, effect: allow, access: [read], paths: ['/', '/usr/**', '/etc/**', '/src/**', '{tools}/**', '/proc/**', '/sys/**', '/dev/urandom']}}
      - {{name: nothing, effect: allow, paths: ['/dev/null']}}
      - {{name: bench, effect: allow, paths: ['{root}/**', '/tmp/**']}}
      - {{name: denied, effect: deny, paths: ['{root}/denied/**']}}
"
    );
    for n in 0..files {
        _ = writeln!(
            text,
            "      - {{name: file-{n}, effect: allow, access: [read], paths: ['{}/**']}}",
            directory(n)
        );
    }
    text
}

/// The directory that the `n`th rule is about that nothing comes by.
pub fn directory(n: u32) -> String {
    format!("/bench-rules/{n}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_as_many_rules_as_it_says() {
        for rules in RULES {
            let needs = Needs { root: "/a".into(), tools: "/b".into(), mirror: Some(80) };
            let text = text(rules, &needs);
            assert_eq!(text.matches("effect:").count(), rules as usize);
        }
    }
}
