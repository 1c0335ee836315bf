//! The keyed hash of a path component.
//!
//! An agent chooses file names, so the key is drawn at load and never leaves the kernel's maps: two
//! names that collide cannot be looked for. Each word passes two multiplications by secret odd
//! factors with a shift between, because after a single one a flipped top bit stays a known
//! difference under every key.

/// Set in every hash: the other half of the symbol space belongs to glob classes.
pub const LITERAL_BIT: u64 = 1 << 63;

/// The running hash of a name, fed in words of eight bytes, little-endian, the last one padded with
/// zeros.
#[derive(Clone, Copy)]
pub struct NameHash {
    key: [u64; 2],
    value: u64,
}

impl NameHash {
    /// Starts over a name of `len` bytes. The length tells names apart that differ in trailing
    /// zeros only.
    #[inline(always)]
    pub fn new(key: [u64; 2], len: u64) -> Self {
        Self { key, value: key[0] ^ len }
    }

    /// Mixes the next eight bytes in.
    #[inline(always)]
    pub fn word(&mut self, word: u64) {
        let mut value = (self.value ^ word).wrapping_mul(self.key[0] | 1);
        value ^= value >> 32;
        value = value.wrapping_mul(self.key[1] | 1);
        self.value = value ^ (value >> 29);
    }

    /// The symbol of the name, with [`LITERAL_BIT`] set.
    #[inline(always)]
    pub fn finish(self) -> u64 {
        self.value | LITERAL_BIT
    }
}

/// Keeps the first `bytes` bytes (0 to 7) of a little-endian word.
#[inline(always)]
pub fn keep_bytes(word: u64, bytes: u64) -> u64 {
    word & ((1 << (bytes * 8)) - 1)
}

/// The symbol of a whole name, as the kernel computes it word by word.
pub fn name_symbol(key: [u64; 2], name: &[u8]) -> u64 {
    let mut hash = NameHash::new(key, name.len() as u64);
    for chunk in name.chunks(8) {
        hash.word(chunk.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)));
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

    #[test]
    fn a_name_and_its_padding_are_told_apart() {
        assert_ne!(name_symbol(KEY, b"a"), name_symbol(KEY, b"a\0"));
        assert_ne!(name_symbol(KEY, b""), name_symbol(KEY, b"\0"));
    }

    #[test]
    fn a_flipped_top_bit_can_not_be_undone_in_the_next_word() {
        // The difference that collides under every key when a word is multiplied only once.
        let top = 1u64 << 63;
        let collides = |key| {
            let (mut plain, mut flipped) = (NameHash::new(key, 16), NameHash::new(key, 16));
            plain.word(7);
            plain.word(9);
            flipped.word(7 ^ top);
            flipped.word(9 ^ top ^ (1 << 31));
            plain.finish() == flipped.finish()
        };
        assert!(!collides(KEY));
        assert!(!collides([3, 5]));
    }

    #[test]
    fn every_symbol_is_outside_the_space_of_glob_classes() {
        for name in [&b"self"[..], b"", b"x", &[0xff; 255]] {
            assert_ne!(name_symbol(KEY, name) & LITERAL_BIT, 0);
        }
    }

    #[test]
    fn the_last_word_is_masked_to_the_name() {
        assert_eq!(keep_bytes(u64::MAX, 1), 0xff);
        assert_eq!(keep_bytes(u64::MAX, 7), u64::MAX >> 8);
        assert_eq!(keep_bytes(u64::MAX, 0), 0);
    }
}
