//! What was found wrong with a file so far, and where in its text.

use std::ops::Range;

use serde_saphyr::{Error as YamlError, Location};

use super::{Fault, Problem, Refusal, schema::Text};

/// Longest line that an error shows, bytes; at a longer one only the place is told.
const MAX_SHOWN_LINE: usize = 512;
/// Longest piece of the file that a message repeats, characters.
const MAX_QUOTED: usize = 80;

/// The problems of one file.
pub struct Notes<'a> {
    text: &'a str,
    problems: Vec<Problem>,
    omitted: usize,
}

impl<'a> Notes<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, problems: Vec::new(), omitted: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn refusal(self, name: &str) -> Refusal {
        self.refusal_of("policy", name)
    }

    /// The same of a file that is no policy but a `what`.
    pub fn refusal_of(self, what: &'static str, name: &str) -> Refusal {
        Refusal::new(what, name, self.text, self.problems, self.omitted)
    }

    /// Why the YAML could not be read as a policy.
    pub fn yaml_error(&mut self, error: YamlError) {
        let at = error.location().map_or(0..0, |location| self.place(&location));
        let fault = match error {
            YamlError::AliasError { error, .. } => return self.yaml_error(*error),
            YamlError::SerdeUnknownField { field, expected, .. } => {
                Fault::UnknownField { field: quoted(&field), known: expected }
            }
            YamlError::DuplicateMappingKey { key, .. } => {
                Fault::DuplicateKey { key: quoted(key.as_deref().unwrap_or("the key")) }
            }
            YamlError::MultipleDocuments { .. } => Fault::SecondDocument,
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

    /// One of the words that `field` may be.
    pub fn choice<T: Copy>(
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

    /// A field of `whole` that can be one word only.
    pub fn exactly(
        &mut self,
        whole: &'static str,
        field: &'static str,
        text: Option<Text>,
        only: &'static str,
    ) {
        match text {
            None => self.missing(0..0, field, whole, only),
            Some(text) => self.choice(field, &text, &[(only, ())]),
        };
    }

    /// A field of `whole` that has to be there.
    pub fn missing<T>(
        &mut self,
        at: Range<usize>,
        field: &'static str,
        whole: &'static str,
        example: &'static str,
    ) -> Option<T> {
        self.refuse(at, Fault::Missing { field, place: whole, example })
    }

    /// Notes a fault of a whole value.
    pub fn refuse_text<T>(&mut self, text: &Text, fault: Fault) -> Option<T> {
        let at = self.place(&text.defined);
        self.refuse(at, fault)
    }

    /// Notes a fault of the bytes `part` of a value, or of all of it where the file spells the
    /// value otherwise (quotes with escapes, several lines).
    pub fn refuse_part<T>(&mut self, text: &Text, part: Range<usize>, fault: Fault) -> Option<T> {
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
    pub fn refuse<T>(&mut self, at: Range<usize>, fault: Fault) -> Option<T> {
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
        // Shown are the line and its neighbours.
        let above = before.get(..line_start).and_then(|text| text.lines().next_back());
        let below = self.text.get(line_end + 1..).and_then(|text| text.lines().next());
        let longest = [above, below].into_iter().flatten().map(str::len).max().unwrap_or_default();
        let span = (longest.max(line_end - line_start) <= MAX_SHOWN_LINE)
            .then(|| (at.start, at.end.min(line_end).saturating_sub(at.start)));
        self.problems.push(Problem { line, column, fault, span });
        None
    }

    /// The bytes a location speaks of: of a block, its first word.
    pub fn place(&self, location: &Location) -> Range<usize> {
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
        // Where a value is missing this is the colon.
        start..start + word.max(usize::from(behind.starts_with(':')))
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
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    short = short.replace("\\'", "'").replace("\\\"", "\"").replace("\\\\", "\\");
    if text.chars().count() > MAX_QUOTED {
        short.push('…');
    }
    short
}
