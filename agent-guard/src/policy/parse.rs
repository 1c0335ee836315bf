//! From the text to a [`Policy`], or to everything that is wrong with it.

use std::ops::Range;

use agent_guard_common::{event::Operation, limits::MAX_RULES};
use serde_saphyr::Spanned;
use sha2::{Digest, Sha256};

use super::{
    AccessSet, Effect, ExecMatch, FileMatch, ImageError, ImagePattern, Mode, NamePattern,
    PathPattern, Pin, Policy, PolicyName, Rule, Section, SectionKind, Segment, Selector,
    SocketName, Target, TargetError,
    error::{Fault, PolicyError},
    load::MAX_FILE_BYTES,
    notes::{Notes, quoted},
    schema::{self, Document, Text},
};
use crate::{bytes::hexadecimal, event::words};

/// Most paths and targets of a policy, all rules together: the tables grow with each.
pub const MAX_PATTERNS: usize = 1 << 17;
/// Longest name of a rule, bytes: it is carried by every event.
pub const MAX_RULE_NAME: usize = 64;
/// Longest class of a rule, bytes: likewise.
pub const MAX_CLASS: usize = 32;

const API_VERSION: &str = "agent-guard.dev/v1alpha1";
const KIND: &str = "AgentPolicy";

impl Policy {
    /// Reads a policy from `text`; `name` is what errors call it.
    ///
    /// # Errors
    /// [`PolicyError::TooLarge`], or [`PolicyError::Refused`] with every problem of the file
    /// (only the first where the YAML itself is malformed).
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(PolicyError::TooLarge { file: name.to_owned() });
        }
        let mut parser = Parser { notes: Notes::new(text), rules: 0, patterns: 0 };
        let policy = match schema::read(text) {
            Ok(document) => parser.policy(document, text),
            Err(error) => {
                parser.notes.yaml_error(error);
                None
            }
        };
        match policy {
            Some(policy) if parser.notes.is_empty() => Ok(policy),
            _ => Err(PolicyError::Refused(Box::new(parser.notes.refusal(name)))),
        }
    }
}

/// A file being judged, and what was found so far.
struct Parser<'a> {
    notes: Notes<'a>,
    rules: usize,
    patterns: usize,
}

/// The fields every rule has, taken out of its section's kind of rule.
struct Head {
    name: Option<Text>,
    effect: Option<Text>,
    class: Option<Text>,
}

/// A rule's line and its parts other than the matcher; `None` where a part is at fault.
struct ParsedHead {
    name: Option<String>,
    effect: Effect,
    class: Option<String>,
    line: usize,
}

impl ParsedHead {
    fn with<M>(self, matcher: M) -> Rule<M> {
        let Self { name, effect, class, line } = self;
        Rule { name, effect, class, matcher, line }
    }
}

impl Parser<'_> {
    /// `None` only with a problem noted.
    fn policy(&mut self, document: Document, text: &str) -> Option<Policy> {
        let Document { api_version, kind, metadata, spec } = document;
        if api_version.is_none() && kind.is_none() && metadata.is_none() && spec.is_none() {
            return self.notes.refuse(0..0, Fault::Empty);
        }
        self.notes.exactly("the policy", "apiVersion", api_version, API_VERSION);
        self.notes.exactly("the policy", "kind", kind, KIND);
        let name = match metadata.and_then(|metadata| metadata.name) {
            None => self.notes.missing(0..0, "name", "`metadata`", "coding-agent"),
            Some(text) => match PolicyName::new(&text.value) {
                Some(name) => Some(name),
                None => {
                    self.notes.refuse_text(&text, Fault::PolicyName { found: quoted(&text.value) })
                }
            },
        };
        let Some(spec) = spec else {
            return self.notes.missing(0..0, "spec", "the policy", "{mode: enforce}");
        };
        let selector = match spec.selector {
            None => Some(Selector::default()),
            Some(selector) => self.selector(selector),
        };
        let modes = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
        let mode = match spec.mode {
            None => Some(Mode::default()),
            Some(text) => self.notes.choice("mode", &text, &modes),
        };

        let written = [
            (SectionKind::Egress, spec.egress.is_some()),
            (SectionKind::Exec, spec.exec.is_some()),
            (SectionKind::Files, spec.files.is_some()),
            (SectionKind::Listen, spec.listen.is_some()),
            (SectionKind::Unix, spec.unix.is_some()),
            (SectionKind::System, spec.system.is_some()),
        ];
        let egress = self.section(spec.egress, |parser, rule, at, line| {
            let schema::EgressRule { name, effect, class, to } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let to = parser.list(to, at, "to", "[\"127.0.0.1:8080/tcp\"]", Parser::target)?;
            Some(head?.with(to.into_iter().flatten().collect()))
        });
        let exec = self.section(spec.exec, |parser, rule, at, line| {
            let schema::ExecRule { name, effect, class, paths, pin } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let pin = parser.pin(pin, head.as_ref().map(|head| head.effect));
            let entry = match pin {
                Some(Some(_)) => Parser::pinned_path,
                _ => Parser::path,
            };
            let paths = parser.list(paths, at, "paths", "[\"/usr/bin/**\"]", entry)?;
            Some(head?.with(ExecMatch { paths, pin: pin? }))
        });
        let files = self.section(spec.files, |parser, rule, at, line| {
            let schema::FileRule { name, effect, class, access, paths } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let access = parser.access(access);
            let paths = parser.list(paths, at, "paths", "[\"/workspace/**\"]", Parser::path)?;
            Some(head?.with(FileMatch { access: access?, paths }))
        });
        let listen = self.section(spec.listen, |parser, rule, at, line| {
            let schema::ListenRule { name, effect, class, on } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let on = parser.list(on, at, "on", "[\"127.0.0.1:3000/tcp\"]", Parser::own_address)?;
            Some(head?.with(on.into_iter().flatten().collect()))
        });
        let unix = self.section(spec.unix, |parser, rule, at, line| {
            let schema::UnixRule { name, effect, class, paths } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let paths = parser.list(paths, at, "paths", "[\"/run/x.sock\"]", Parser::socket)?;
            Some(head?.with(paths))
        });
        let system = self.section(spec.system, |parser, rule, at, line| {
            let schema::SystemRule { name, effect, class, operations } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let operations =
                parser.list(operations, at, "operations", "[mount, chroot]", Parser::operation)?;
            Some(head?.with(operations))
        });
        let revision = hexadecimal(&Sha256::digest(text));
        Some(Policy {
            name: name?,
            revision,
            selector: selector?,
            mode: mode?,
            egress: egress?,
            exec: exec?,
            files: files?,
            listen: listen?,
            unix: unix?,
            system: system?,
            written: written.into_iter().filter_map(|(kind, is)| is.then_some(kind)).collect(),
        })
    }

    fn selector(&mut self, selector: schema::Selector) -> Option<Selector> {
        let cgroups: Vec<_> = each(selector.cgroups, |text| {
            if text.value.starts_with('/') {
                return self.path(text);
            }
            self.notes.refuse_text(text, Fault::Cgroup { found: quoted(&text.value) })
        });
        let mut names =
            |list, kind, example| each(list, |text| self.name_pattern(text, kind, example));
        let units = names(selector.units, "unit", "agent@*.service");
        let containers = names(selector.containers, "container", "4f6a*");
        let container_names = names(selector.container_names, "container", "coding-*");
        let namespaces = names(selector.namespaces, "namespace", "agents");
        let pods = names(selector.pods, "pod", "coding-*");
        let service_accounts = names(selector.service_accounts, "service account", "coding");
        let labels = selector.labels.unwrap_or_default().into_iter();
        let labels = labels.filter_map(|(key, value)| {
            let value = self.name_pattern(&value, "label's value", "coding-*")?;
            Some((key, value))
        });
        let labels = labels.collect();
        let images = each(selector.images, |text| self.image(text));
        Some(Selector {
            cgroups,
            units,
            containers,
            container_names,
            images,
            namespaces,
            pods,
            labels,
            service_accounts,
        })
    }

    fn image(&mut self, text: &Text) -> Option<ImagePattern> {
        match ImagePattern::parse(&text.value) {
            Ok(pattern) => Some(pattern),
            Err(ImageError::Pattern(error)) => {
                self.notes.refuse_part(text, error.at, Fault::Pattern(error.fault))
            }
            Err(ImageError::Short { fix }) => {
                let found = quoted(&text.value);
                self.notes.refuse_text(text, Fault::Image { found, fix })
            }
        }
    }

    fn name_pattern(
        &mut self,
        text: &Text,
        kind: &'static str,
        example: &'static str,
    ) -> Option<NamePattern> {
        match NamePattern::parse(&text.value) {
            Some(Ok(pattern)) => Some(pattern),
            Some(Err(error)) => self.notes.refuse_part(text, error.at, Fault::Pattern(error.fault)),
            None => {
                let found = quoted(&text.value);
                self.notes.refuse_text(text, Fault::Name { kind, found, example })
            }
        }
    }

    /// A section, whose rules `rule` reads: from the rule as written, its place and its line.
    fn section<R, M>(
        &mut self,
        section: Option<schema::Section<R>>,
        rule: impl Fn(&mut Self, R, Range<usize>, usize) -> Option<Rule<M>>,
    ) -> Option<Section<M>> {
        let Some(section) = section else { return Some(Section::default()) };
        let default = match section.default {
            None => Some(Effect::Deny),
            Some(text) => self.effect("default", &text),
        };
        let mut rules = Vec::new();
        for Spanned { value, referenced, .. } in section.rules.unwrap_or_default() {
            let at = self.notes.place(&referenced);
            self.rules += 1;
            if self.rules == MAX_RULES + 1 {
                self.notes.refuse::<()>(at.clone(), Fault::TooManyRules);
            }
            let line = usize::try_from(referenced.line()).unwrap_or_default();
            rules.extend(rule(self, value, at, line));
        }
        Some(Section { default: default?, rules })
    }

    fn head(&mut self, head: Head, at: Range<usize>, line: usize) -> Option<ParsedHead> {
        let effect = match &head.effect {
            None => self.notes.missing(at, "effect", "the rule", "deny"),
            Some(text) => self.effect("effect", text),
        };
        let printable = |name: &str| {
            (1..=MAX_RULE_NAME).contains(&name.len())
                && name.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
                && name.trim() == name
        };
        let label = |class: &str| {
            (1..=MAX_CLASS).contains(&class.len())
                && class.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        let name = self.label(head.name, printable, |found| Fault::RuleName { found });
        let class = self.label(head.class, label, |found| Fault::Class { found });
        Some(ParsedHead { name, effect: effect?, class, line })
    }

    /// A text that must be as `fits` demands. One that is not is noted, and left out.
    fn label(
        &mut self,
        text: Option<Text>,
        fits: impl Fn(&str) -> bool,
        fault: impl Fn(String) -> Fault,
    ) -> Option<String> {
        let text = text?;
        if fits(&text.value) {
            return Some(text.value);
        }
        self.notes.refuse_text(&text, fault(quoted(&text.value)))
    }

    fn effect(&mut self, field: &'static str, text: &Text) -> Option<Effect> {
        if text.value == "ask" {
            return self.notes.refuse_text(text, Fault::Ask);
        }
        self.notes.choice(field, text, &[("allow", Effect::Allow), ("deny", Effect::Deny)])
    }

    fn access(&mut self, list: Option<Spanned<Vec<Text>>>) -> Option<AccessSet> {
        let Some(list) = list else { return Some(AccessSet::ReadWrite) };
        if list.value.is_empty() {
            let at = self.notes.place(&list.referenced);
            return self.notes.refuse(at, Fault::EmptyList { field: "access" });
        }
        let known = [("read", AccessSet::Read), ("write", AccessSet::Write)];
        let mut all = Some(None);
        for text in &list.value {
            let one = self.notes.choice("access", text, &known);
            all = match (all, one) {
                (Some(None), Some(one)) => Some(Some(one)),
                (Some(Some(other)), Some(one)) if other == one => Some(Some(one)),
                (Some(Some(_)), Some(_)) => Some(Some(AccessSet::ReadWrite)),
                _ => None,
            };
        }
        all.flatten()
    }

    /// The entries of a rule's list, of which there must be one at least.
    fn list<T>(
        &mut self,
        list: Option<Vec<Text>>,
        rule: Range<usize>,
        field: &'static str,
        example: &'static str,
        entry: impl Fn(&mut Self, &Text) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(list) = list else {
            return self.notes.missing(rule, field, "the rule", example);
        };
        if list.is_empty() {
            return self.notes.refuse(rule, Fault::EmptyList { field });
        }
        let count = list.len();
        let before = self.patterns;
        self.patterns += count;
        if before <= MAX_PATTERNS && self.patterns > MAX_PATTERNS {
            self.notes.refuse::<()>(rule, Fault::TooManyPatterns);
        }
        let entries: Vec<T> = list.iter().filter_map(|text| entry(self, text)).collect();
        (entries.len() == count).then_some(entries)
    }

    fn path(&mut self, text: &Text) -> Option<PathPattern> {
        match PathPattern::parse(&text.value) {
            Ok(pattern) => Some(pattern),
            Err(error) => self.notes.refuse_part(text, error.at, Fault::Pattern(error.fault)),
        }
    }

    fn pinned_path(&mut self, text: &Text) -> Option<PathPattern> {
        let pattern = self.path(text)?;
        match pattern.segments.first() {
            Some(Segment::Literal(_)) => Some(pattern),
            _ => self.notes.refuse_text(text, Fault::PinAnywhere),
        }
    }

    /// The pin of a rule, or that it has none.
    fn pin(&mut self, text: Option<Text>, effect: Option<Effect>) -> Option<Option<Pin>> {
        let Some(text) = text else { return Some(None) };
        let pin = match text.value.as_str() {
            "false" => return Some(None),
            "true" => Some(Pin::AsLoaded),
            other => other.strip_prefix("sha256:").and_then(sha256).map(Pin::Sha256),
        };
        match (pin, effect) {
            (None, _) => self.notes.refuse_text(&text, Fault::Pin { found: quoted(&text.value) }),
            (Some(_), Some(Effect::Deny)) => self.notes.refuse_text(&text, Fault::PinDenies),
            (Some(pin), _) => Some(Some(pin)),
        }
    }

    fn socket(&mut self, text: &Text) -> Option<SocketName> {
        match SocketName::parse(&text.value) {
            Ok(name) => Some(name),
            Err(error) => self.notes.refuse_part(text, error.at, Fault::Pattern(error.fault)),
        }
    }

    fn own_address(&mut self, text: &Text) -> Option<Vec<Target>> {
        self.judged_target(text, Target::parse_own(&text.value))
    }

    fn target(&mut self, text: &Text) -> Option<Vec<Target>> {
        self.judged_target(text, Target::parse(&text.value))
    }

    fn judged_target(
        &mut self,
        text: &Text,
        parsed: Result<Vec<Target>, TargetError>,
    ) -> Option<Vec<Target>> {
        match parsed {
            Ok(targets) => Some(targets),
            Err(error) => self.notes.refuse_part(text, error.at, Fault::Target(error.fault)),
        }
    }

    fn operation(&mut self, text: &Text) -> Option<Operation> {
        let known: Vec<_> =
            Operation::ALL.iter().map(|one| (words::operation(*one), *one)).collect();
        self.notes.choice("operation", text, &known)
    }
}

/// 64 hexadecimal digits as bytes.
fn sha256(digits: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = digits
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

/// What is read from a list that may be left out; what is at fault is noted, and left out.
fn each<T>(list: Option<Vec<Text>>, mut entry: impl FnMut(&Text) -> Option<T>) -> Vec<T> {
    list.unwrap_or_default().iter().filter_map(&mut entry).collect()
}
