//! Whether two patterns can be about one path.

use crate::policy::{PathPattern, Segment};

impl PathPattern {
    /// Whether some path fits both; true also where it is not known.
    pub(super) fn may_meet(&self, other: &Self) -> bool {
        meet(&self.segments, &other.segments)
    }
}

fn meet(one: &[Segment], other: &[Segment]) -> bool {
    match (one, other) {
        ([Segment::AnyDepth, rest @ ..], with) => any_depth(one, rest, with),
        (with, [Segment::AnyDepth, rest @ ..]) => any_depth(other, rest, with),
        ([first, rest @ ..], [second, behind @ ..]) => {
            name_meets(first, second) && meet(rest, behind)
        }
        ([], []) => true,
        _ => false,
    }
}

/// `whole` is a `**` and `rest`: it stands for nothing, or takes a component of `with`.
fn any_depth(whole: &[Segment], rest: &[Segment], with: &[Segment]) -> bool {
    let takes = with.split_first().is_some_and(|(_, behind)| meet(whole, behind));
    takes || meet(rest, with)
}

fn name_meets(one: &Segment, other: &Segment) -> bool {
    match (one, other) {
        (Segment::Literal(one), Segment::Literal(other)) => one == other,
        (Segment::Literal(name), Segment::Glob(glob))
        | (Segment::Glob(glob), Segment::Literal(name)) => glob.matches(name),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_meet_where_a_path_fits_both() {
        let pattern = |text| PathPattern::parse(text).unwrap();
        for (one, other, due) in [
            ("/w/**", "**/.env", true),
            ("/w/*", "**/.env", true),
            ("/w/a", "**/.env", false),
            ("/w/.env", "**/.env", true),
            ("/etc/ssl/certs/*", "/etc/shadow*", false),
            ("/etc/**", "/etc/shadow*", true),
            ("/w/*.o", "**/*.key", true),
            ("/w/a.o", "**/*.key", false),
            ("/w/*/x", "**/.ssh/**", true),
            ("/w/a/x", "**/.ssh/**", false),
            ("/a/**/b", "/**/c", false),
            ("/a", "/a/**", true),
            ("/", "**/x", false),
        ] {
            assert_eq!(pattern(one).may_meet(&pattern(other)), due, "{one} {other}");
            assert_eq!(pattern(other).may_meet(&pattern(one)), due, "{other} {one}");
        }
    }
}
