//! Bytes as digits, and bytes that nobody can foretell.

use std::fmt::Write as _;

use rustix::rand::{GetRandomFlags, getrandom};

/// In hexadecimal digits.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Random bytes from the kernel, at most 256 at once.
///
/// # Errors
/// What the kernel said.
pub fn random<const N: usize>() -> rustix::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}
