//! Why a policy is refused: what, where, and how to mend it.

use std::{fmt, io};

use agent_guard_common::limits::MAX_RULES;
use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};
use thiserror::Error;

use super::{
    load::MAX_FILE_BYTES,
    parse::{MAX_CLASS, MAX_PATTERNS, MAX_RULE_NAME},
    pattern::PatternFault,
    target::TargetFault,
};

/// Why there is no policy. Rendered by miette it shows the lines at fault and the fix of each.
#[derive(Debug, Error, Diagnostic)]
pub enum PolicyError {
    /// The file could not be read.
    #[error("cannot read the policy {file}")]
    #[diagnostic(help("name a readable file, or `-` for standard input"))]
    Unreadable {
        /// As the caller named it.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than any policy; it was not read.
    #[error("the policy {file} has more than {MAX_FILE_BYTES} bytes")]
    #[diagnostic(help("is this the right file? Patterns with `*` and `**` keep a policy short"))]
    TooLarge {
        /// As the caller named it.
        file: String,
    },
    /// The file is not text.
    #[error("{file}:{line}: the policy is not UTF-8 text (byte {offset})")]
    #[diagnostic(help(
        "save it as UTF-8; a file name that is not UTF-8 is written with `\\xNN` for each such byte"
    ))]
    NotUtf8 {
        /// As the caller named it.
        file: String,
        /// 0-based place of the first byte that is not.
        offset: usize,
        /// 1-based line of it.
        line: usize,
    },
    /// The text is no policy.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Refused(Box<Refusal>),
}

/// Everything that is wrong with one file.
#[derive(Debug)]
pub struct Refusal {
    what: &'static str,
    /// As the caller named it.
    pub file: String,
    /// In the order of the file, at most [`Refusal::SHOWN`] of them.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub omitted: usize,
    text: NamedSource<String>,
}

impl Refusal {
    /// Most problems kept: a screen or two.
    pub const SHOWN: usize = 20;

    pub(super) fn new(
        what: &'static str,
        file: &str,
        text: &str,
        mut problems: Vec<Problem>,
        omitted: usize,
    ) -> Self {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        let text = NamedSource::new(file, harmless(text));
        Self { what, file: file.to_owned(), problems, omitted, text }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.problems.first() {
            write!(f, "{}:{}:{}: ", self.file, first.line, first.column)?;
        }
        write!(f, "the {} is refused", self.what)?;
        match (self.problems.len(), self.omitted) {
            (1, 0) => Ok(()),
            (shown, 0) => write!(f, ", {shown} problems"),
            (shown, more) => write!(f, ", the first {shown} of {} problems", shown + more),
        }
    }
}

impl std::error::Error for Refusal {}

impl Diagnostic for Refusal {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.text)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

/// One thing that is wrong, and where.
#[derive(Debug)]
pub struct Problem {
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
    /// What is wrong.
    pub fault: Fault,
    /// Bytes of the file to underline; none where the line is too long to be shown.
    pub(super) span: Option<(usize, usize)>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.span {
            Some(_) => write!(f, "{}", self.fault),
            None => write!(f, "line {}, column {}: {}", self.line, self.column, self.fault),
        }
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.fault.help()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (offset, len) = self.span?;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, offset, len))))
    }
}

/// What can be wrong with a policy.
#[derive(Debug, Error, Diagnostic)]
pub enum Fault {
    /// Nothing but space and comments.
    #[error("the policy is empty")]
    #[diagnostic(help("start from `policies/coding-agent.yaml`"))]
    Empty,
    /// The parser's own message.
    #[error("this YAML is not understood: {message}")]
    #[diagnostic(help("YAML wants spaces for indentation, closed quotes and closed brackets"))]
    Yaml {
        /// What the parser said.
        message: String,
    },
    /// More than one document.
    #[error("a second YAML document")]
    #[diagnostic(help("one file holds one policy: remove the `---` or split the file"))]
    SecondDocument,
    /// A bound on nesting, aliases or size.
    #[error("the YAML is beyond what a policy needs: {message}")]
    #[diagnostic(help("write it with less nesting and fewer aliases (`*name`)"))]
    Excess {
        /// Which bound.
        message: String,
    },
    /// `<<: *base`.
    #[error("merge keys (`<<`) are not taken: what a rule says stands in the rule")]
    #[diagnostic(help("write the fields out"))]
    MergeKey,
    /// One key twice.
    #[error("`{key}` stands here a second time")]
    #[diagnostic(help("keep one of the two; put the rules of both into one list"))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A field that does not exist.
    #[error("there is no field `{field}` here")]
    #[diagnostic(help("{}", did_you_mean(.field, .known)))]
    UnknownField {
        /// As written.
        field: String,
        /// The fields that are.
        known: Vec<&'static str>,
    },
    /// A list where a map is due, and the like.
    #[error("{expected} is due here")]
    #[diagnostic(help("{example}"))]
    Shape {
        /// What is due.
        expected: &'static str,
        /// How it is written.
        example: &'static str,
    },
    /// A required field is not there.
    #[error("{place} has no `{field}`")]
    #[diagnostic(help("add `{field}: {example}`"))]
    Missing {
        /// The field.
        field: &'static str,
        /// Where it is missed.
        place: &'static str,
        /// A value that fits.
        example: &'static str,
    },
    /// A list that must name something names nothing.
    #[error("`{field}` is an empty list: the rule would match nothing")]
    #[diagnostic(help("name at least one, or remove the rule"))]
    EmptyList {
        /// The field.
        field: &'static str,
    },
    /// A value that is none of those there are.
    #[error("`{found}` is no {field}")]
    #[diagnostic(help("{}", did_you_mean(.found, .known)))]
    Choice {
        /// The field.
        field: &'static str,
        /// As written.
        found: String,
        /// The values that are.
        known: Vec<&'static str>,
    },
    /// `ask`, which this version cannot hold.
    #[error("`ask` is not enforced: this version cannot hold a call until someone answers")]
    #[diagnostic(help("write `deny`, or `allow` where the call may go through unasked"))]
    Ask,
    /// A policy's name.
    #[error("`{found}` is no policy name")]
    #[diagnostic(help(
        "1 to {} of `a-z`, `0-9` and `-`, neither first nor last a `-`: `coding-agent`",
        super::PolicyName::MAX
    ))]
    PolicyName {
        /// As written.
        found: String,
    },
    /// A rule's name.
    #[error("`{found}` is no rule name")]
    #[diagnostic(help("1 to {MAX_RULE_NAME} printable ASCII characters, no space at the ends"))]
    RuleName {
        /// As written, escaped.
        found: String,
    },
    /// A rule's class.
    #[error("`{found}` is no class")]
    #[diagnostic(help("1 to {MAX_CLASS} of `a-z`, `0-9` and `-`: `secret`"))]
    Class {
        /// As written, escaped.
        found: String,
    },
    /// A cgroup of the selector.
    #[error("`{found}` is no cgroup path")]
    #[diagnostic(help("write it from the root of the cgroup tree: `/agents/coding-*`"))]
    Cgroup {
        /// As written, escaped.
        found: String,
    },
    /// An image of the selector.
    #[error("`{found}` names no image in full, so it would fit none")]
    #[diagnostic(help(
        "write the registry, the repository and the tag or digest, each of which may have a `*`: `{fix}`"
    ))]
    Image {
        /// As written, escaped.
        found: String,
        /// What was meant, probably.
        fix: String,
    },
    /// A name in the selector.
    #[error("`{found}` is no name of a {kind}")]
    #[diagnostic(help("write a name, in which `*` is any run of characters: `{example}`"))]
    Name {
        /// What it should be the name of.
        kind: &'static str,
        /// As written, escaped.
        found: String,
        /// Such a name.
        example: &'static str,
    },
    /// A rule's pin.
    #[error("`{found}` is no pin")]
    #[diagnostic(help(
        "write `true` for the files that are there when the policy is loaded, or `sha256:` and 64 hexadecimal digits, as sha256sum prints them, for files that hold just that"
    ))]
    Pin {
        /// As written, escaped.
        found: String,
    },
    /// A pin in a rule that denies.
    #[error("a pin says which files a rule allows, and this rule denies")]
    #[diagnostic(help("remove `pin`: the denial holds for every file at these paths"))]
    PinDenies,
    /// A pin under a pattern that could match anywhere.
    #[error(
        "files to pin are looked for when the policy is loaded, and this pattern begins anywhere"
    )]
    #[diagnostic(help("begin it with a directory: `/opt/tools/**`"))]
    PinAnywhere,
    /// More rules than a rule number can tell apart.
    #[error("more than {MAX_RULES} rules")]
    #[diagnostic(help("put paths and targets of one effect into one rule, or use patterns"))]
    TooManyRules,
    /// More paths and targets than are compiled.
    #[error("more than {MAX_PATTERNS} paths and targets")]
    #[diagnostic(help("use patterns (`/usr/**`) and networks (`10.0.0.0/8`)"))]
    TooManyPatterns,
    /// A case of a test that asks nothing, or several things.
    #[error("a case asks one question, and this one another number")]
    #[diagnostic(help(
        "write one of `open`, `exec`, `connect`, `listen`, `unix` and `operation` in each case"
    ))]
    Questions,
    /// `access` where nothing is opened.
    #[error("`access` belongs to `open`")]
    #[diagnostic(help("remove it"))]
    AccessWithoutOpen,
    /// A case of a test that can not be asked.
    #[error("{message}")]
    #[diagnostic(help("{help}"))]
    NoQuestion {
        /// Why not.
        message: String,
        /// How it is written.
        help: String,
    },
    /// A path pattern.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pattern(PatternFault),
    /// An egress target.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Target(TargetFault),
}

/// The nearest of the words there are, or all of them.
fn did_you_mean(found: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|word| (strsim::osa_distance(&found.to_lowercase(), &word.to_lowercase()), word))
        .min()
        .filter(|(distance, word)| *distance <= 1.max(word.len() / 3));
    match (nearest, known) {
        (Some((_, word)), _) => format!("did you mean `{word}`?"),
        (None, [only]) => format!("write `{only}`"),
        (None, known) => format!("one of `{}`", known.join("`, `")),
    }
}

/// The text as it may be shown on a terminal: same length, without controls and without the
/// marks that reorder what a reader sees.
fn harmless(text: &str) -> String {
    let hides = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\r' => shown.push(' '),
            c if hides(c) => shown.extend(std::iter::repeat_n('?', c.len_utf8())),
            c => shown.push(c),
        }
    }
    shown
}
