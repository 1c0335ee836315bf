//! Path patterns: `/usr/**`, `/dev/pts/*`, `**/*.pem`.

use std::{fmt, ops::Range};

use miette::Diagnostic;
use thiserror::Error;

/// Longest name of one directory entry, bytes: `NAME_MAX`. A longer literal matches nothing.
pub const MAX_NAME: usize = 255;
/// Most components of one pattern: the depth the kernel side walks.
pub const MAX_COMPONENTS: usize = 64;
/// Longest pattern as written, bytes: `PATH_MAX`, what one system call can name.
pub const MAX_TEXT: usize = 4096;

/// A set of paths, anchored at `/`.
///
/// `*` stands for any run of bytes within one component, `**` (a component of its own) for zero
/// or more components: `/etc/**` covers `/etc` itself and all below, `**/.env` any `.env`
/// anywhere. There are no other wildcards. `\` makes the next of `* ? [ ] { } \` an ordinary
/// character, and `\xNN` (two hexadecimal digits) is one byte, which is how names that are not
/// UTF-8 are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// As the author wrote it.
    pub text: String,
    /// From the root down; empty for `/` itself. Never two `AnyDepth` in a row.
    pub segments: Vec<Segment>,
}

/// What one component of a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Exactly these 1 to 255 bytes; never `.` or `..`, no `/`, no NUL.
    Literal(Box<[u8]>),
    /// A component with `*` beside other text.
    Glob(ComponentGlob),
    /// `*`: any one component.
    AnyOne,
    /// `**`: zero or more components.
    AnyDepth,
}

/// A component such as `*.pem` or `.env.*`: fixed text with `*` in at least one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentGlob {
    pieces: Box<[Box<[u8]>]>,
}

impl ComponentGlob {
    /// The text around each `*`, in order: `*.pem` is `["", ".pem"]`, `a*b*` is `["a", "b", ""]`.
    /// At least two pieces; only the first and the last may be empty, and never all of them.
    #[must_use]
    pub fn pieces(&self) -> &[Box<[u8]>] {
        &self.pieces
    }

    /// Whether `name`, one component, fits.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let [first, middle @ .., last] = &*self.pieces else { return false };
        let Some(mut rest) = name.strip_prefix(&**first).and_then(|n| n.strip_suffix(&**last))
        else {
            return false;
        };
        // Leftmost is right: every piece is followed by a `*`.
        for piece in middle {
            let Some(at) = rest.windows(piece.len()).position(|window| window == &**piece) else {
                return false;
            };
            rest = rest.get(at + piece.len()..).unwrap_or_default();
        }
        true
    }
}

/// Why a text is no path pattern, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{fault}")]
pub struct PatternError {
    /// Bytes of the text that are at fault.
    pub at: Range<usize>,
    /// What is wrong with them.
    pub fault: PatternFault,
}

/// What can be wrong with a path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
pub enum PatternFault {
    /// No text at all.
    #[error("the path is empty")]
    #[diagnostic(help("write an absolute path such as `/workspace/**`"))]
    Empty,
    /// `foo/bar`.
    #[error("the path is relative, and a policy has no current directory")]
    #[diagnostic(help("start it with `/`, or with `**/` to match anywhere: `{fix}`"))]
    Relative {
        /// The nearest pattern that is accepted.
        fix: String,
    },
    /// `~/x`.
    #[error("`~` is not expanded: whose home it is depends on who loads the policy")]
    #[diagnostic(help("write the directory out: `/home/*{rest}` or `/root{rest}`"))]
    Home {
        /// What follows the `~`.
        rest: String,
    },
    /// `//`.
    #[error("an empty component: two `/` in a row")]
    #[diagnostic(help("write a single `/`"))]
    EmptyComponent,
    /// `/tmp/`.
    #[error("the path ends in `/`")]
    #[diagnostic(help(
        "write `{path}` for the entry itself, or `{path}/**` for it and all below it"
    ))]
    TrailingSlash {
        /// The path without the slash.
        path: String,
    },
    /// `.` or `..`.
    #[error("`{component}` as a component never matches: the kernel resolves it away")]
    #[diagnostic(help("write the path that is meant, without `.` and `..`"))]
    Dot {
        /// `.` or `..`.
        component: &'static str,
    },
    /// `a**b`.
    #[error("`**` beside other text in a component")]
    #[diagnostic(help(
        "`**` must be a whole component (`/a/**/b`); within one component write a single `*`"
    ))]
    GluedStars,
    /// `?`, `[`, `]`, `{` or `}`.
    #[error("`{found}` is not a wildcard here")]
    #[diagnostic(help("only `*` and `**` are; for the character itself write `\\{found}`"))]
    Metacharacter {
        /// The character.
        found: char,
    },
    /// A backslash before something that needs none.
    #[error("`\\` before something that it does not escape")]
    #[diagnostic(help(
        "`\\` goes before one of `* ? [ ] {{ }} \\`, or is `\\xNN` for one byte in hexadecimal; in double quotes YAML takes one `\\` for itself: prefer single quotes"
    ))]
    Escape,
    /// A NUL or a `/` inside a component.
    #[error("a file name cannot hold {what}")]
    #[diagnostic(help("take it out"))]
    ImpossibleByte {
        /// What it holds.
        what: &'static str,
    },
    /// A control character written as itself.
    #[error("a control character in the path")]
    #[diagnostic(help("write it as `\\x{byte:02x}`, so that a reader of the policy sees it"))]
    Control {
        /// The character, all of which are ASCII.
        byte: u8,
    },
    /// A component that fits no name.
    #[error("a component of at least {len} bytes, where a file name has at most {MAX_NAME}")]
    #[diagnostic(help("it can never match; shorten it"))]
    LongName {
        /// Bytes that are fixed.
        len: usize,
    },
    /// Too many components.
    #[error("{count} components, where this version walks at most {MAX_COMPONENTS}")]
    #[diagnostic(help("replace the middle by `**`"))]
    Deep {
        /// How many there are.
        count: usize,
    },
    /// Too long a text.
    #[error("{len} bytes, where a path has at most {MAX_TEXT}")]
    #[diagnostic(help("replace a part by `**`"))]
    Long {
        /// Bytes of the text.
        len: usize,
    },
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it and which bytes of `text` are at fault.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        check_whole(text)?;
        // `**/x` and `/**/x` are the same set.
        let (body, mut at) = match text.strip_prefix('/') {
            Some(body) => (body, 1),
            None => (text, 0),
        };
        let mut segments = Vec::new();
        if !body.is_empty() {
            for component in body.split('/') {
                let segment = parse_component(component, at)?;
                if segment != Segment::AnyDepth || segments.last() != Some(&Segment::AnyDepth) {
                    segments.push(segment);
                }
                at += component.len() + 1;
            }
        }
        if segments.len() > MAX_COMPONENTS {
            let fault = PatternFault::Deep { count: segments.len() };
            return Err(PatternError { at: 0..text.len(), fault });
        }
        Ok(Self { text: text.to_owned(), segments })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What concerns the text as a whole: its length, how it begins and how it ends.
fn check_whole(text: &str) -> Result<(), PatternError> {
    let fail = |at, fault| Err(PatternError { at, fault });
    let all = 0..text.len();
    if text.is_empty() {
        return fail(all, PatternFault::Empty);
    }
    if text.len() > MAX_TEXT {
        return fail(all, PatternFault::Long { len: text.len() });
    }
    if let Some(rest) = text.strip_prefix('~') {
        return fail(0..1, PatternFault::Home { rest: rest.to_owned() });
    }
    if !text.starts_with('/') && !text.starts_with("**/") {
        let fix = match text {
            "**" => "/**".to_owned(),
            _ => format!("**/{}", text.strip_prefix("./").unwrap_or(text)),
        };
        return fail(all, PatternFault::Relative { fix });
    }
    if let Some(path) = text.strip_suffix('/')
        && !path.is_empty()
        && !path.ends_with('/')
    {
        let fault = PatternFault::TrailingSlash { path: path.to_owned() };
        return fail(path.len()..text.len(), fault);
    }
    Ok(())
}

/// One component, which begins at byte `start` of the pattern.
fn parse_component(component: &str, start: usize) -> Result<Segment, PatternError> {
    let all = start..start + component.len();
    let fail = |at, fault| Err(PatternError { at, fault });
    match component {
        // The slash before it is the one too many.
        "" => return fail(start.saturating_sub(1)..start + 1, PatternFault::EmptyComponent),
        "*" => return Ok(Segment::AnyOne),
        "**" => return Ok(Segment::AnyDepth),
        _ => {}
    }
    let mut pieces = vec![Vec::new()];
    let mut chars = component.char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        let at = start + offset..start + offset + c.len_utf8();
        let mut bytes = [0; 4];
        let bytes = match c {
            '*' => {
                if chars.peek().is_some_and(|&(_, next)| next == '*') {
                    return fail(at.start..at.end + 1, PatternFault::GluedStars);
                }
                pieces.push(Vec::new());
                continue;
            }
            '?' | '[' | ']' | '{' | '}' => {
                return fail(at, PatternFault::Metacharacter { found: c });
            }
            '\\' => {
                let rest = component.get(offset + 1..).unwrap_or_default();
                let Some((byte, len)) = unescape(rest) else {
                    return fail(at, PatternFault::Escape);
                };
                let at = at.start..at.end + len;
                match byte {
                    0 => return fail(at, PatternFault::ImpossibleByte { what: "a NUL byte" }),
                    b'/' => return fail(at, PatternFault::ImpossibleByte { what: "a `/`" }),
                    _ => {}
                }
                // Every character of an escape is ASCII: one byte, one step.
                for _ in 0..len {
                    chars.next();
                }
                bytes[0] = byte;
                &bytes[..1]
            }
            '\0' => return fail(at, PatternFault::ImpossibleByte { what: "a NUL byte" }),
            c if c.is_ascii_control() => {
                let byte = u8::try_from(c).unwrap_or_default();
                return fail(at, PatternFault::Control { byte });
            }
            c => c.encode_utf8(&mut bytes).as_bytes(),
        };
        if let Some(piece) = pieces.last_mut() {
            piece.extend_from_slice(bytes);
        }
    }

    let len = pieces.iter().map(Vec::len).sum();
    if len > MAX_NAME {
        return fail(all, PatternFault::LongName { len });
    }
    let mut pieces: Vec<Box<[u8]>> = pieces.into_iter().map(Vec::into_boxed_slice).collect();
    if pieces.len() > 1 {
        return Ok(Segment::Glob(ComponentGlob { pieces: pieces.into() }));
    }
    match pieces.pop().unwrap_or_default() {
        name if *name == *b"." => fail(all, PatternFault::Dot { component: "." }),
        name if *name == *b".." => fail(all, PatternFault::Dot { component: ".." }),
        name => Ok(Segment::Literal(name)),
    }
}

/// What stands behind a backslash: the byte it means, and how many characters it takes.
fn unescape(rest: &str) -> Option<(u8, usize)> {
    match *rest.as_bytes() {
        [c @ (b'*' | b'?' | b'[' | b']' | b'{' | b'}' | b'\\'), ..] => Some((c, 1)),
        [b'x', high, low, ..] => {
            let digit = |c| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
            Some((digit(high)? << 4 | digit(low)?, 3))
        }
        _ => None,
    }
}
