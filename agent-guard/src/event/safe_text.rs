//! Bytes that an agent chose, made safe to show and to copy, and reversible.

use std::fmt;

use serde::{Serialize, Serializer};

/// Text made from bytes that an agent controls (file names, thread names).
///
/// UTF-8 that shows as what it is stays as it is. A backslash is doubled. Every byte that is not
/// UTF-8, and every byte of a character that moves the cursor, reorders or hides text, is `\xNN`
/// with two lower-case hexadecimal digits. So the text is printable, holds no line break, and
/// [`SafeText::to_bytes`] gives the bytes back exactly. Path patterns of a policy read the same
/// escapes.
///
/// ```
/// use agent_guard::event::SafeText;
///
/// let text = SafeText::new(b"a\\b\n\xff");
/// assert_eq!(text.as_str(), r"a\\b\x0a\xff");
/// assert_eq!(text.to_bytes(), b"a\\b\n\xff");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SafeText(String);

impl SafeText {
    /// The text of `bytes`, at most four times as long.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut text = Self(String::with_capacity(bytes.len()));
        text.push(bytes);
        text
    }

    /// The text of what `text` is the escaped form of: the same text, where this type made it.
    #[must_use]
    pub fn from_escaped(text: &str) -> Self {
        let mut whole = Self::with_capacity(text.len());
        // Separators stay, and a `/` within a name stays escaped.
        for (number, name) in text.split('/').enumerate() {
            if number > 0 {
                whole.0.push('/');
            }
            whole.push_escaping(&Self(name.to_owned()).to_bytes(), |character| character == '/');
        }
        whole
    }

    /// Room for `bytes` bytes that need no escape.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Appends the text of `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.push_escaping(bytes, |_| false);
    }

    /// Appends `/` and one component of a path. The few names that hold a `/` (`memfd_create` takes
    /// any) get it escaped, so that they never read as a directory and a name.
    pub(crate) fn push_component(&mut self, name: &[u8]) {
        self.0.push('/');
        self.push_escaping(name, |character| character == '/');
    }

    fn push_escaping(&mut self, bytes: &[u8], also: impl Fn(char) -> bool) {
        for chunk in bytes.utf8_chunks() {
            let mut plain = chunk.valid();
            while let Some(at) = plain.find(|c: char| c == '\\' || is_hidden(c) || also(c)) {
                let (before, rest) = plain.split_at(at);
                self.0.push_str(before);
                let mut characters = rest.chars();
                match characters.next() {
                    Some('\\') => self.0.push_str("\\\\"),
                    Some(hidden) => {
                        self.push_hex(hidden.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    None => {}
                }
                plain = characters.as_str();
            }
            self.0.push_str(plain);
            self.push_hex(chunk.invalid());
        }
    }

    fn push_hex(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0.push_str("\\x");
            for nibble in [byte >> 4, byte & 0xf] {
                self.0.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
    }

    /// The text: printable, on one line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that the text was made from.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_bytes();
        loop {
            match rest {
                [b'\\', b'x', high, low, tail @ ..] => {
                    let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default();
                    bytes.extend(u8::try_from(nibble(*high) << 4 | nibble(*low)));
                    rest = tail;
                }
                [b'\\', byte, tail @ ..] | [byte, tail @ ..] => {
                    bytes.push(*byte);
                    rest = tail;
                }
                [] => return bytes,
            }
        }
    }
}

impl fmt::Display for SafeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SafeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Characters that a terminal acts on, that reorder what stands around them, or that do not show.
fn is_hidden(character: char) -> bool {
    match character {
        ' '..='~' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => {
            true
        }
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => true,
        '\u{e0000}'..='\u{e0fff}' => true,
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_in_any_script_stay_as_they_are() {
        assert_eq!(SafeText::new("日記/größe 😀 a\"b".as_bytes()).as_str(), "日記/größe 😀 a\"b");
    }

    #[test]
    fn what_moves_reorders_or_hides_is_escaped() {
        for hidden in ["\n", "\r", "\t", "\x1b[2J", "\x7f", "\u{9b}", "\u{202e}", "\u{2028}"] {
            let text = SafeText::new(hidden.as_bytes());
            assert!(text.as_str().starts_with("\\x"), "{text}");
            assert_eq!(text.to_bytes(), hidden.as_bytes());
        }
    }

    #[test]
    fn a_slash_within_a_name_never_reads_as_a_directory() {
        let mut path = SafeText::default();
        path.push_component(b"memfd:../etc/passwd");
        assert_eq!(path.as_str(), r"/memfd:..\x2fetc\x2fpasswd");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = SafeText::new(&bytes);
            prop_assert!(!text.as_str().chars().any(char::is_control));
            prop_assert_eq!(text.to_bytes(), bytes);
            let again = SafeText::from_escaped(text.as_str());
            prop_assert_eq!(again.as_str(), text.as_str());
        }

        #[test]
        fn any_text_comes_back(text in "\\PC*|.*") {
            prop_assert_eq!(SafeText::new(text.as_bytes()).to_bytes(), text.as_bytes());
        }
    }
}
