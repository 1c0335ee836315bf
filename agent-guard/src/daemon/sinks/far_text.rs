//! What far ends say, made fit to be shown.

use crate::event::SafeText;

/// Most bytes of it that are shown.
const MOST: usize = 256;

/// The beginning of `text`, printable and on one line.
pub fn far_text(text: &str) -> SafeText {
    let end = text.floor_char_boundary(MOST);
    SafeText::new(text.get(..end).unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_far_end_says_is_bounded_and_on_one_line() {
        assert_eq!(far_text("no\x1b[2J\nroom").as_str(), r"no\x1b[2J\x0aroom");
        assert_eq!(far_text(&"x".repeat(MOST)).as_str().len(), MOST);
        assert_eq!(far_text(&"x".repeat(MOST + 1)).as_str().len(), MOST);
        assert_eq!(far_text(&"ö".repeat(MOST)).as_str().len(), MOST);
    }
}
