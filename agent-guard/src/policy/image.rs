//! Names of container images, in full: `docker.io/library/debian:12`.

use super::{PathPattern, PatternError, Segment};

/// Longest name of an image that is looked at, bytes: registries allow 255 beside a tag or digest of 137.
const MAX_NAME: usize = 512;

/// A set of images: what their names are in full. `*` is any run of characters between two `/`, `**` any number
/// of components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePattern(PathPattern);

/// Why a text is no pattern of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// As for a path.
    Pattern(PatternError),
    /// Without registry, or without tag and digest: that fits no name in full.
    Short {
        /// With both.
        fix: String,
    },
}

impl ImagePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let at_root = format!("/{text}");
        let pattern = PathPattern::parse(&at_root).map_err(|PatternError { at, fault }| {
            let at = at.start.saturating_sub(1)..at.end.saturating_sub(1);
            ImageError::Pattern(PatternError { at, fault })
        })?;
        let fix = || {
            let tagged = if has_version(text) { text.to_owned() } else { format!("{text}:*") };
            ImageError::Short { fix: with_registry(&tagged) }
        };
        let is_full = match pattern.segments.as_slice() {
            [Segment::AnyDepth] | [Segment::AnyDepth, .., Segment::AnyDepth] => true,
            [Segment::AnyDepth, ..] => has_version(text),
            [_, .., Segment::AnyDepth] => is_registry(first(text)),
            _ => has_version(text) && is_registry(first(text)),
        };
        if is_full { Ok(Self(pattern)) } else { Err(fix()) }
    }

    /// Whether an image of this name in full fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name.as_bytes())
    }
}

/// The name in full of the image that somebody called `name`, as Docker completes it. `None` where it is no name:
/// an id, which does not say what it is the id of.
#[must_use]
pub fn full_name(name: &str) -> Option<String> {
    let is_id = name.starts_with("sha256:")
        || (name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if name.is_empty() || is_id || name.len() > MAX_NAME {
        return None;
    }
    let name = with_registry(name);
    let last = name.rsplit('/').next().unwrap_or_default();
    Some(if last.contains([':', '@']) { name } else { format!("{name}:latest") })
}

fn with_registry(name: &str) -> String {
    match name.contains('/') {
        false => format!("docker.io/library/{name}"),
        true if is_registry(first(name)) => name.to_owned(),
        true => format!("docker.io/{name}"),
    }
}

fn first(name: &str) -> &str {
    name.split_once('/').map_or("", |(first, _)| first)
}

fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '*'])
}

fn has_version(text: &str) -> bool {
    text.rsplit('/').next().unwrap_or_default().contains([':', '@', '*'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_completed_as_docker_does() {
        for (given, full) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("acme/agent", "docker.io/acme/agent:latest"),
            ("localhost/agent:1", "localhost/agent:1"),
            ("registry:5000/agent", "registry:5000/agent:latest"),
            ("ghcr.io/acme/agent@sha256:00", "ghcr.io/acme/agent@sha256:00"),
        ] {
            assert_eq!(full_name(given).as_deref(), Some(full));
        }
    }

    #[test]
    fn an_id_is_no_name() {
        let long = format!("a/{}", "b".repeat(MAX_NAME - 1));
        for id in ["", "sha256:4f6a", "4f6a4f6a4f6a", &"0".repeat(64), &long] {
            assert_eq!(full_name(id), None, "{id}");
        }
        assert!(full_name(&long[..MAX_NAME]).is_some(), "at the bound");
    }

    #[test]
    fn a_pattern_fits_names_in_full() {
        for (pattern, fitting, other) in [
            ("docker.io/library/debian:*", "docker.io/library/debian:12", "docker.io/x/debian:12"),
            ("ghcr.io/acme/**", "ghcr.io/acme/a/b:1", "ghcr.io/acme2/a:1"),
            ("ghcr.io/acme/agent*", "ghcr.io/acme/agent@sha256:00", "ghcr.io/acme/x/agent:1"),
            ("**/agent:*", "localhost/agent:1", "localhost/agent-x:1"),
        ] {
            let pattern = ImagePattern::parse(pattern).unwrap();
            assert!(pattern.matches(fitting) && !pattern.matches(other), "{pattern:?}");
        }
    }

    #[test]
    fn a_pattern_that_fits_no_name_in_full_is_refused_with_one_that_does() {
        for (pattern, mended) in [
            ("debian", "docker.io/library/debian:*"),
            ("debian:12", "docker.io/library/debian:12"),
            ("acme/agent:1", "docker.io/acme/agent:1"),
            ("ghcr.io/acme/agent", "ghcr.io/acme/agent:*"),
        ] {
            let refused = ImagePattern::parse(pattern).unwrap_err();
            assert_eq!(refused, ImageError::Short { fix: mended.to_owned() });
            ImagePattern::parse(mended).unwrap();
        }
        let ImageError::Pattern(error) = ImagePattern::parse("a.io//b:1").unwrap_err() else {
            panic!("not the fault of a path")
        };
        assert_eq!(error.at, 4..6);
    }
}
