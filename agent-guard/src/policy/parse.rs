//! From the file to a [`Policy`], or to everything that is wrong with it.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

use serde_saphyr::{Error as YamlError, Location, Spanned, budget::BudgetBreach};

use super::{
    AccessSet, Effect, FileMatch, Mode, PathPattern, Policy, PolicyName, Rule, Section, Target,
    error::{Fault, PolicyError, Problem, Refusal},
    schema::{self, Document, Text},
};

/// Largest policy file, bytes. The most rules there may be, with a path each, take about as much.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// Most rules of a policy, all sections together: a rule's number is 16 bits wide in the kernel
/// tables, and the highest numbers are kept for defaults.
pub const MAX_RULES: usize = 65_000;
/// Most paths and targets of a policy, all rules together: the tables grow with each.
pub const MAX_PATTERNS: usize = 1 << 17;
/// Longest name of a rule, bytes: it is carried by every event.
pub const MAX_RULE_NAME: usize = 64;
/// Longest class of a rule, bytes: likewise.
pub const MAX_CLASS: usize = 32;
/// Longest line that an error shows, bytes; of a longer one only the place is told.
const MAX_SHOWN_LINE: usize = 512;
/// Longest piece of the file that a message repeats, characters.
const MAX_QUOTED: usize = 80;

const API_VERSION: &str = "agent-guard.dev/v1alpha1";
const KIND: &str = "AgentPolicy";

impl Policy {
    /// Reads a policy file; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be read, has more than [`MAX_FILE_BYTES`], or is refused as by
    /// [`Policy::parse`].
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let name = path.display().to_string();
        let bytes = if path == Path::new("-") {
            read_bounded(io::stdin().lock())
        } else {
            File::open(path).and_then(|file| {
                // A file that says it is too large is not read at all.
                match file.metadata()?.len() {
                    len if len > MAX_FILE_BYTES as u64 => Ok(None),
                    _ => read_bounded(file),
                }
            })
        };
        match bytes {
            Err(source) => Err(PolicyError::Unreadable { file: name, source }),
            Ok(None) => Err(PolicyError::TooLarge { file: name }),
            Ok(Some(bytes)) => Self::parse_bytes(&name, bytes),
        }
    }

    fn parse_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, PolicyError> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            let before = error.as_bytes().iter().take(offset);
            let line = 1 + before.filter(|&&byte| byte == b'\n').count();
            PolicyError::NotUtf8 { file: name.to_owned(), offset, line }
        })?;
        Self::parse(name, &text)
    }

    /// Reads a policy from `text`; `name` is what errors call it.
    ///
    /// # Errors
    /// [`PolicyError::TooLarge`], or [`PolicyError::Refused`] with every problem of the file
    /// (only the first where the YAML itself is malformed).
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(PolicyError::TooLarge { file: name.to_owned() });
        }
        let mut parser = Parser { text, problems: Vec::new(), omitted: 0, rules: 0, patterns: 0 };
        let policy = match schema::read(text) {
            Ok(document) => parser.policy(document),
            Err(error) => {
                parser.yaml_error(error);
                None
            }
        };
        let Parser { problems, omitted, .. } = parser;
        match policy {
            Some(policy) if problems.is_empty() => Ok(policy),
            _ => Err(PolicyError::Refused(Box::new(Refusal::new(name, text, problems, omitted)))),
        }
    }
}

/// All there is to read, or `None` where it is more than a policy may have.
fn read_bounded(source: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= MAX_FILE_BYTES).then_some(bytes))
}

/// A file being judged, and what was found so far.
struct Parser<'a> {
    text: &'a str,
    problems: Vec<Problem>,
    omitted: usize,
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
    fn policy(&mut self, document: Document) -> Option<Policy> {
        let Document { api_version, kind, metadata, spec } = document;
        if api_version.is_none() && kind.is_none() && metadata.is_none() && spec.is_none() {
            return self.refuse(0..0, Fault::Empty);
        }
        self.exactly("apiVersion", api_version, API_VERSION);
        self.exactly("kind", kind, KIND);
        let name = match metadata.and_then(|metadata| metadata.name) {
            None => self.missing(0..0, "name", "`metadata`", "coding-agent"),
            Some(text) => match PolicyName::new(&text.value) {
                Some(name) => Some(name),
                None => self.refuse_text(&text, Fault::PolicyName { found: quoted(&text.value) }),
            },
        };
        let Some(spec) = spec else {
            return self.missing(0..0, "spec", "the policy", "{mode: enforce}");
        };
        if let Some(listen) = spec.listen {
            self.not_enforced("listen", &listen);
        }
        if let Some(unix) = spec.unix {
            self.not_enforced("unix", &unix);
        }
        for cgroup in spec.selector.and_then(|selector| selector.cgroups).unwrap_or_default() {
            let path = &cgroup.value;
            if !path.starts_with('/') || path.contains(char::is_control) {
                self.refuse_text::<()>(&cgroup, Fault::Cgroup { found: quoted(path) });
            }
        }
        let modes = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
        let mode = match spec.mode {
            None => Some(Mode::default()),
            Some(text) => self.choice("mode", &text, &modes),
        };

        let egress = self.section(spec.egress, |parser, rule, at, line| {
            let schema::EgressRule { name, effect, class, to } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let to = parser.list(to, at, "to", "[\"127.0.0.1:8080/tcp\"]", Parser::target)?;
            Some(head?.with(to.into_iter().flatten().collect()))
        });
        let exec = self.section(spec.exec, |parser, rule, at, line| {
            let schema::ExecRule { name, effect, class, paths } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let paths = parser.list(paths, at, "paths", "[\"/usr/bin/**\"]", Parser::path)?;
            Some(head?.with(paths))
        });
        let files = self.section(spec.files, |parser, rule, at, line| {
            let schema::FileRule { name, effect, class, access, paths } = rule;
            let head = parser.head(Head { name, effect, class }, at.clone(), line);
            let access = parser.access(access);
            let paths = parser.list(paths, at, "paths", "[\"/workspace/**\"]", Parser::path)?;
            Some(head?.with(FileMatch { access: access?, paths }))
        });
        Some(Policy { name: name?, mode: mode?, egress: egress?, exec: exec?, files: files? })
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
            let at = self.place(&referenced);
            self.rules += 1;
            if self.rules == MAX_RULES + 1 {
                self.refuse::<()>(at.clone(), Fault::TooManyRules);
            }
            let line = usize::try_from(referenced.line()).unwrap_or_default();
            rules.extend(rule(self, value, at, line));
        }
        Some(Section { default: default?, rules })
    }

    fn head(&mut self, head: Head, at: Range<usize>, line: usize) -> Option<ParsedHead> {
        let effect = match &head.effect {
            None => self.missing(at, "effect", "the rule", "deny"),
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
        self.refuse_text(&text, fault(quoted(&text.value)))
    }

    fn effect(&mut self, field: &'static str, text: &Text) -> Option<Effect> {
        if text.value == "ask" {
            return self.refuse_text(text, Fault::Ask);
        }
        self.choice(field, text, &[("allow", Effect::Allow), ("deny", Effect::Deny)])
    }

    fn access(&mut self, list: Option<Spanned<Vec<Text>>>) -> Option<AccessSet> {
        let Some(list) = list else { return Some(AccessSet::ReadWrite) };
        if list.value.is_empty() {
            let at = self.place(&list.referenced);
            return self.refuse(at, Fault::EmptyList { field: "access" });
        }
        let known = [("read", AccessSet::Read), ("write", AccessSet::Write)];
        let mut all = Some(None);
        for text in &list.value {
            let one = self.choice("access", text, &known);
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
            return self.missing(rule, field, "the rule", example);
        };
        if list.is_empty() {
            return self.refuse(rule, Fault::EmptyList { field });
        }
        let count = list.len();
        let before = self.patterns;
        self.patterns += count;
        if before <= MAX_PATTERNS && self.patterns > MAX_PATTERNS {
            self.refuse::<()>(rule, Fault::TooManyPatterns);
        }
        let entries: Vec<T> = list.iter().filter_map(|text| entry(self, text)).collect();
        (entries.len() == count).then_some(entries)
    }

    fn path(&mut self, text: &Text) -> Option<PathPattern> {
        match PathPattern::parse(&text.value) {
            Ok(pattern) => Some(pattern),
            Err(error) => self.refuse_part(text, error.at, Fault::Pattern(error.fault)),
        }
    }

    fn target(&mut self, text: &Text) -> Option<Vec<Target>> {
        match Target::parse(&text.value) {
            Ok(targets) => Some(targets),
            Err(error) => self.refuse_part(text, error.at, Fault::Target(error.fault)),
        }
    }

    fn choice<T: Copy>(
        &mut self,
        field: &'static str,
        text: &Text,
        known: &[(&'static str, T)],
    ) -> Option<T> {
        if let Some((_, value)) = known.iter().find(|(word, _)| *word == text.value) {
            return Some(*value);
        }
        let known = known.iter().map(|(word, _)| *word).collect();
        self.refuse_text(text, Fault::Choice { field, found: quoted(&text.value), known })
    }

    fn exactly(&mut self, field: &'static str, text: Option<Text>, only: &'static str) {
        match text {
            None => self.missing(0..0, field, "the policy", only),
            Some(text) => self.choice(field, &text, &[(only, ())]),
        };
    }

    fn not_enforced<T>(&mut self, section: &'static str, value: &Spanned<T>) {
        let at = self.place(&value.referenced);
        // The key stands before its value: it is what must go.
        let key = self.text.get(..at.start).and_then(|before| before.rfind(section));
        let at = key.map_or(at, |start| start..start + section.len());
        self.refuse::<()>(at, Fault::NotEnforced { section });
    }

    fn missing<T>(
        &mut self,
        at: Range<usize>,
        field: &'static str,
        place: &'static str,
        example: &'static str,
    ) -> Option<T> {
        self.refuse(at, Fault::Missing { field, place, example })
    }

    /// Why the YAML could not be read as a policy.
    fn yaml_error(&mut self, error: YamlError) {
        let at = error.location().map_or(0..0, |location| self.place(&location));
        let fault = match error {
            YamlError::AliasError { error, .. } => return self.yaml_error(*error),
            YamlError::SerdeUnknownField { field, expected, .. } => {
                Fault::UnknownField { field: quoted(&field), known: expected }
            }
            YamlError::DuplicateMappingKey { key, .. } => {
                Fault::DuplicateKey { key: quoted(key.as_deref().unwrap_or("the key")) }
            }
            YamlError::MultipleDocuments { .. }
            | YamlError::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
                Fault::SecondDocument
            }
            YamlError::MergeKeyNotAllowed { .. } => Fault::MergeKey,
            YamlError::Unexpected { expected: "mapping start", .. } => {
                Fault::Shape { expected: "a map", example: "write `field: value`, one a line" }
            }
            YamlError::Unexpected { expected: "sequence start", .. } => Fault::Shape {
                expected: "a list",
                example: "write `[\"…\"]`, or one `- …` a line",
            },
            YamlError::Unexpected { expected: "string scalar", .. }
            | YamlError::NullIntoString { .. } => Fault::Shape {
                expected: "a text",
                example: "write one value, in quotes if need be",
            },
            YamlError::Budget { .. }
            | YamlError::AliasReplayCounterOverflow { .. }
            | YamlError::AliasReplayLimitExceeded { .. }
            | YamlError::AliasExpansionLimitExceeded { .. }
            | YamlError::AliasReplayStackDepthExceeded { .. } => {
                Fault::Excess { message: without_place(&error) }
            }
            error => Fault::Yaml { message: without_place(&error) },
        };
        self.refuse::<()>(at, fault);
    }

    /// Notes a fault of a whole value.
    fn refuse_text<T>(&mut self, text: &Text, fault: Fault) -> Option<T> {
        let at = self.place(&text.defined);
        self.refuse(at, fault)
    }

    /// Notes a fault of the bytes `part` of a value, or of all of it where the file spells the
    /// value otherwise (quotes with escapes, several lines).
    fn refuse_part<T>(&mut self, text: &Text, part: Range<usize>, fault: Fault) -> Option<T> {
        let at = self.place(&text.defined);
        let spelled = self.text.get(at.clone()).and_then(|raw| raw.find(&text.value));
        let at = match spelled {
            Some(offset) if !part.is_empty() => {
                at.start + offset + part.start..at.start + offset + part.end
            }
            _ => at,
        };
        self.refuse(at, fault)
    }

    /// Notes that the bytes `at` of the file are at fault.
    fn refuse<T>(&mut self, at: Range<usize>, fault: Fault) -> Option<T> {
        if self.problems.len() == Refusal::SHOWN {
            self.omitted += 1;
            return None;
        }
        let before = self.text.get(..at.start).unwrap_or_default();
        let line = 1 + before.bytes().filter(|&b| b == b'\n').count();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = 1 + before.get(line_start..).unwrap_or_default().chars().count();
        let behind = self.text.get(at.start..).unwrap_or_default();
        let line_end = at.start + behind.find('\n').unwrap_or(behind.len());
        let span = (line_end - line_start <= MAX_SHOWN_LINE)
            .then(|| (at.start, at.end.min(line_end).saturating_sub(at.start)));
        self.problems.push(Problem { line, column, fault, span });
        None
    }

    /// The bytes a location speaks of: of a block, its first word.
    fn place(&self, location: &Location) -> Range<usize> {
        let span = location.span();
        let start = match span.byte_offset().map(usize::try_from) {
            Some(Ok(offset)) => offset,
            _ => self.offset_of(location.line(), location.column()),
        };
        let len = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or_default();
        if len > 0 {
            return start..start + len;
        }
        let behind = self.text.get(start..).unwrap_or_default();
        let word = behind.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(behind.len());
        start..start + word
    }

    /// The byte offset of a 1-based line and column (in characters), within the text.
    fn offset_of(&self, line: u64, column: u64) -> usize {
        let line = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        let column = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1);
        let start: usize = self.text.split_inclusive('\n').take(line).map(str::len).sum();
        let rest = self.text.get(start..).unwrap_or_default();
        start + rest.chars().take(column).map(char::len_utf8).sum::<usize>()
    }
}

/// The parser's message without its own account of the place.
fn without_place(error: &YamlError) -> String {
    let message = error.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    quoted(message.get(..end).unwrap_or_default())
}

/// A piece of the file as messages repeat it: bounded, and without controls.
fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    short = short.replace("\\'", "'").replace("\\\"", "\"").replace("\\\\", "\\");
    if text.chars().count() > MAX_QUOTED {
        short.push('…');
    }
    short
}
