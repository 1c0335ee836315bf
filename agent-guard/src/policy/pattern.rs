//! Path patterns: `/usr/**`, `/dev/pts/*`, `**/*.pem`.

use std::{fmt, ops::Range};

use agent_guard_common::limits::ABSTRACT_NAME_MAX;
use miette::Diagnostic;
use thiserror::Error;

/// Longest name of one directory entry, bytes: `NAME_MAX`. A longer literal matches nothing.
pub const MAX_NAME: usize = 255;
/// Most components of one pattern: half of what the kernel walks, more than any path in use has.
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
    /// `@` alone.
    #[error("an abstract socket name without a name")]
    #[diagnostic(help("write `@name`, or `@*` for every abstract socket"))]
    NoAbstractName,
    /// An abstract name that fits no address.
    #[error(
        "an abstract name of at least {len} bytes, where a socket's address has at most {ABSTRACT_NAME_MAX}"
    )]
    #[diagnostic(help("it can never match; shorten it"))]
    LongAbstractName {
        /// Bytes that are fixed.
        len: usize,
    },
    /// Too many components.
    #[error("{count} components, where a pattern has at most {MAX_COMPONENTS}")]
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

/// A set of UNIX-domain sockets: by the path that they are bound to, or by abstract name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketName {
    /// A path.
    Path(PathPattern),
    /// `@name`: the bytes after the NUL, one segment whatever they are.
    Abstract(PathPattern),
}

impl SocketName {
    /// Reads a path pattern, or `@` and an abstract name, in which `*` is any run of bytes.
    ///
    /// # Errors
    /// What is wrong with it and which bytes of `text` are at fault.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let Some(name) = text.strip_prefix('@') else {
            return PathPattern::parse(text).map(Self::Path);
        };
        let segment = match name {
            "" => return Err(PatternError { at: 0..1, fault: PatternFault::NoAbstractName }),
            "*" => Segment::AnyOne,
            _ => parse_name(name, 1, NameKind::Abstract)?,
        };
        let pattern = PathPattern { text: text.to_owned(), segments: vec![segment] };
        Ok(Self::Abstract(pattern))
    }

    /// The pattern, of a path or of one name.
    #[must_use]
    pub fn pattern(&self) -> &PathPattern {
        let (Self::Path(pattern) | Self::Abstract(pattern)) = self;
        pattern
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
pub(super) fn parse_component(component: &str, start: usize) -> Result<Segment, PatternError> {
    let all = start..start + component.len();
    let fail = |at, fault| Err(PatternError { at, fault });
    match component {
        // The slash before it is the one too many.
        "" => return fail(start.saturating_sub(1)..start + 1, PatternFault::EmptyComponent),
        "*" => return Ok(Segment::AnyOne),
        "**" => return Ok(Segment::AnyDepth),
        _ => {}
    }
    match parse_name(component, start, NameKind::File)? {
        Segment::Literal(name) if *name == *b"." => fail(all, PatternFault::Dot { component: "." }),
        Segment::Literal(name) if *name == *b".." => {
            fail(all, PatternFault::Dot { component: ".." })
        }
        segment => Ok(segment),
    }
}

/// What a name is the name of, and what it may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameKind {
    /// A directory entry: no `/`, no NUL.
    File,
    /// An abstract socket: any byte.
    Abstract,
}

/// A name that begins at byte `start` of the pattern, with or without `*` in it.
fn parse_name(component: &str, start: usize, kind: NameKind) -> Result<Segment, PatternError> {
    let all = start..start + component.len();
    let fail = |at, fault| Err(PatternError { at, fault });
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
                    _ if kind == NameKind::Abstract => {}
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
    match kind {
        NameKind::File if len > MAX_NAME => return fail(all, PatternFault::LongName { len }),
        NameKind::Abstract if len > ABSTRACT_NAME_MAX => {
            return fail(all, PatternFault::LongAbstractName { len });
        }
        NameKind::File | NameKind::Abstract => {}
    }
    let mut pieces: Vec<Box<[u8]>> = pieces.into_iter().map(Vec::into_boxed_slice).collect();
    if pieces.len() > 1 {
        return Ok(Segment::Glob(ComponentGlob { pieces: pieces.into() }));
    }
    Ok(Segment::Literal(pieces.pop().unwrap_or_default()))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn literal(name: &[u8]) -> Segment {
        Segment::Literal(name.into())
    }

    fn glob(pieces: &[&str]) -> Segment {
        let pieces = pieces.iter().map(|piece| piece.as_bytes().into()).collect();
        Segment::Glob(ComponentGlob { pieces })
    }

    #[test]
    fn a_pattern_is_its_components_from_the_root_down() {
        use Segment::{AnyDepth, AnyOne};
        let cases: &[(&str, &[Segment])] = &[
            ("/", &[]),
            ("/etc", &[literal(b"etc")]),
            ("/etc/**", &[literal(b"etc"), AnyDepth]),
            ("/dev/pts/*", &[literal(b"dev"), literal(b"pts"), AnyOne]),
            ("**/.env", &[AnyDepth, literal(b".env")]),
            ("/**/.env", &[AnyDepth, literal(b".env")]),
            ("**/*.pem", &[AnyDepth, glob(&["", ".pem"])]),
            ("**/.env.*", &[AnyDepth, glob(&[".env.", ""])]),
            ("/a*b*c", &[glob(&["a", "b", "c"])]),
            ("/a/**/**/b", &[literal(b"a"), AnyDepth, literal(b"b")]),
            ("**/**", &[AnyDepth]),
            ("/**", &[AnyDepth]),
            ("/home/*/.ssh/**", &[literal(b"home"), AnyOne, literal(b".ssh"), AnyDepth]),
            ("/a b/ü~", &[literal(b"a b"), literal("ü~".as_bytes())]),
            (r"/\*\?\[\]\{\}\\", &[literal(br"*?[]{}\")]),
            (r"/\xff\x0Ax", &[literal(b"\xff\nx")]),
            (r"/\**", &[glob(&["*", ""])]),
            ("/...", &[literal(b"...")]),
        ];
        for (text, segments) in cases {
            let pattern =
                PathPattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(pattern.segments, *segments, "{text}");
            assert_eq!(pattern.text, *text);
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_at_the_bytes_at_fault() {
        use PatternFault as F;
        let cases: &[(&str, &str, F)] = &[
            ("", "", F::Empty),
            ("etc", "etc", F::Relative { fix: "**/etc".into() }),
            ("./x", "./x", F::Relative { fix: "**/x".into() }),
            ("**", "**", F::Relative { fix: "/**".into() }),
            ("*/x", "*/x", F::Relative { fix: "**/*/x".into() }),
            ("~/.ssh/**", "~", F::Home { rest: "/.ssh/**".into() }),
            ("/a//b", "//", F::EmptyComponent),
            ("//", "//", F::EmptyComponent),
            ("/a//", "//", F::EmptyComponent),
            ("/tmp/", "/", F::TrailingSlash { path: "/tmp".into() }),
            ("**/", "/", F::TrailingSlash { path: "**".into() }),
            ("/a/../b", "..", F::Dot { component: ".." }),
            ("/./b", ".", F::Dot { component: "." }),
            (r"/\x2e\x2e", r"\x2e\x2e", F::Dot { component: ".." }),
            ("/a**", "**", F::GluedStars),
            ("/***", "**", F::GluedStars),
            ("/a?", "?", F::Metacharacter { found: '?' }),
            ("/[ab]", "[", F::Metacharacter { found: '[' }),
            ("/{a,b}", "{", F::Metacharacter { found: '{' }),
            (r"/a\b", r"\", F::Escape),
            (r"/a\", r"\", F::Escape),
            (r"/\x4", r"\", F::Escape),
            (r"/\xgg", r"\", F::Escape),
            (r"/a\x00", r"\x00", F::ImpossibleByte { what: "a NUL byte" }),
            ("/a\0", "\0", F::ImpossibleByte { what: "a NUL byte" }),
            (r"/a\x2Fb", r"\x2F", F::ImpossibleByte { what: "a `/`" }),
            ("/a\n", "\n", F::Control { byte: b'\n' }),
            ("/\x7f", "\x7f", F::Control { byte: 0x7f }),
        ];
        for (text, at, fault) in cases {
            let error = PathPattern::parse(text).expect_err(text);
            assert_eq!((&text[error.at.clone()], &error.fault), (*at, fault), "{text}");
        }
    }

    #[test]
    fn each_bound_holds_at_its_last_value() {
        let name = |len| format!("/{}", "a".repeat(len));
        assert!(PathPattern::parse(&name(MAX_NAME)).is_ok());
        let error = PathPattern::parse(&name(MAX_NAME + 1)).unwrap_err();
        assert_eq!(error.fault, PatternFault::LongName { len: MAX_NAME + 1 });
        // A `*` may stand for nothing: only the fixed bytes count.
        assert!(PathPattern::parse(&format!("{}*", name(MAX_NAME))).is_ok());
        assert!(PathPattern::parse(&format!("{}*", name(MAX_NAME + 1))).is_err());

        assert!(PathPattern::parse(&"/a".repeat(MAX_COMPONENTS)).is_ok());
        let error = PathPattern::parse(&"/a".repeat(MAX_COMPONENTS + 1)).unwrap_err();
        assert_eq!(error.fault, PatternFault::Deep { count: MAX_COMPONENTS + 1 });

        // Four bytes a character as written, so that the names themselves stay in bounds.
        let text = |len: usize| {
            let component = format!("/{}", r"\xff".repeat(MAX_NAME));
            let whole = component.repeat(len / component.len());
            format!("{whole}/{}", "a".repeat(len - whole.len() - 1))
        };
        assert_eq!(text(MAX_TEXT).len(), MAX_TEXT);
        assert!(PathPattern::parse(&text(MAX_TEXT)).is_ok());
        let error = PathPattern::parse(&text(MAX_TEXT + 1)).unwrap_err();
        assert_eq!(error.fault, PatternFault::Long { len: MAX_TEXT + 1 });
    }

    #[test]
    fn a_glob_matches_names_around_its_stars() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("/*.pem", &["a.pem", ".pem", "x.pem.pem"], &["pem", "a.pem~", "a.PEM"]),
            ("/.env.*", &[".env.", ".env.local"], &[".env", "x.env.y"]),
            ("/a*a", &["aa", "aba"], &["a", "ab"]),
            ("/a*b*c", &["abc", "axbxc", "abcbc"], &["ac", "acb", "abcd"]),
            ("/*b*b*", &["bb", "abcb"], &["b", "ab"]),
        ];
        for (text, fit, unfit) in cases {
            let [Segment::Glob(glob)] = &*PathPattern::parse(text).unwrap().segments else {
                panic!("{text} is no glob")
            };
            assert!(fit.iter().all(|name| glob.matches(name.as_bytes())), "{text}");
            assert!(!unfit.iter().any(|name| glob.matches(name.as_bytes())), "{text}");
        }
    }

    /// Any name that a directory can hold.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'\\'), Just(b'.'), Just(b'x'), any::<u8>()],
            1..12,
        )
        .prop_map(|mut name| {
            name.retain(|byte| !matches!(byte, 0 | b'/'));
            name
        })
        .prop_filter("not a name", |name| !matches!(&**name, b"" | b"." | b".."))
    }

    /// The name with every byte that is not plain written as an escape.
    fn escaped(name: &[u8]) -> String {
        let escape = |&byte: &u8| match byte {
            b'*' | b'?' | b'[' | b']' | b'{' | b'}' | b'\\' => format!("\\{}", char::from(byte)),
            byte if byte == b' ' || byte.is_ascii_graphic() => char::from(byte).to_string(),
            byte => format!("\\x{byte:02x}"),
        };
        name.iter().map(escape).collect()
    }

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name_of_any_bytes() {
        let abstract_name = |text: &str| match SocketName::parse(text).unwrap() {
            SocketName::Abstract(pattern) => pattern.segments,
            other => panic!("{other:?}"),
        };
        let literal = |bytes: &[u8]| vec![Segment::Literal(bytes.into())];
        assert_eq!(abstract_name("@dbus"), literal(b"dbus"));
        assert_eq!(abstract_name("@/tmp/.X11-unix/X0"), literal(b"/tmp/.X11-unix/X0"));
        assert_eq!(abstract_name(r"@a\x00\x2f\xff\*"), literal(b"a\0/\xff*"));
        assert_eq!(abstract_name("@.."), literal(b".."));
        assert_eq!(abstract_name("@*"), [Segment::AnyOne]);
        assert!(
            matches!(&abstract_name("@a/*/b")[..], [Segment::Glob(glob)] if glob.matches(b"a/x/y/b"))
        );
        let path = SocketName::parse("/run/x.sock").unwrap();
        assert_eq!(path, SocketName::Path(PathPattern::parse("/run/x.sock").unwrap()));

        for (text, fault) in [
            ("@", PatternFault::NoAbstractName),
            ("@**", PatternFault::GluedStars),
            ("@a?", PatternFault::Metacharacter { found: '?' }),
            ("@a\n", PatternFault::Control { byte: b'\n' }),
            ("run/x", PatternFault::Relative { fix: "**/run/x".to_owned() }),
        ] {
            assert_eq!(SocketName::parse(text).unwrap_err().fault, fault, "{text}");
        }
        let long = |len| format!("@{}", "n".repeat(len));
        assert!(SocketName::parse(&long(ABSTRACT_NAME_MAX)).is_ok());
        let fault = PatternFault::LongAbstractName { len: ABSTRACT_NAME_MAX + 1 };
        assert_eq!(SocketName::parse(&long(ABSTRACT_NAME_MAX + 1)).unwrap_err().fault, fault);
    }

    proptest! {
        #[test]
        fn every_name_can_be_written(names in prop::collection::vec(name(), 1..MAX_COMPONENTS)) {
            let text: String = names.iter().map(|name| format!("/{}", escaped(name))).collect();
            prop_assume!(text.len() <= MAX_TEXT);
            let segments: Vec<_> = names.iter().map(|name| literal(name)).collect();
            prop_assert_eq!(PathPattern::parse(&text).unwrap().segments, segments);
        }

        #[test]
        fn a_glob_matches_what_its_stars_were_taken_from(
            pieces in prop::collection::vec(name(), 2..5),
            runs in prop::collection::vec(name(), 4),
        ) {
            let written: Vec<_> = pieces.iter().map(|piece| escaped(piece)).collect();
            let pattern = PathPattern::parse(&format!("/{}", written.join("*"))).unwrap();
            let mut name = pieces[0].clone();
            for (run, piece) in runs.iter().zip(&pieces[1..]) {
                name.extend(run);
                name.extend(piece);
            }
            let [Segment::Glob(glob)] = &*pattern.segments else { panic!("{pattern}") };
            prop_assert!(glob.matches(&name));
        }

        #[test]
        fn any_text_is_a_pattern_or_an_error_within_it(text in "[/*~.\\\\x0-9a-f?\\[{ü\n]{0,40}|\\PC*") {
            match PathPattern::parse(&text) {
                Ok(pattern) => prop_assert!(pattern.segments.len() <= MAX_COMPONENTS),
                Err(error) => prop_assert!(text.get(error.at).is_some()),
            }
        }
    }
}
