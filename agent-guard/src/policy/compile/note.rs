//! What the compiler did that its author should know of.

use std::{fmt, path::PathBuf};

use super::error::RuleRef;

/// Something that the policy depends on outside its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A pattern names a symbolic link, and stands for what it points at as well.
    Followed {
        /// The rule.
        rule: RuleRef,
        /// The pattern as written.
        pattern: String,
        /// The pattern with its links followed.
        resolved: String,
    },
    /// An allowing pattern names a symbolic link that the agent may replace: it stands for the path
    /// alone.
    NotFollowed {
        /// The rule.
        rule: RuleRef,
        /// The pattern as written.
        pattern: String,
        /// The link.
        link: PathBuf,
    },
    /// Whether a pattern names a symbolic link could not be found out.
    Unreadable {
        /// The rule.
        rule: RuleRef,
        /// The pattern as written.
        pattern: String,
        /// What the system said.
        error: String,
    },
    /// Not every file that deny rules name was looked at for other names.
    AliasesCutOff {
        /// Where the search ended.
        at: PathBuf,
        /// The bound that it met.
        bound: usize,
    },
    /// A directory could not be searched for files that deny rules name.
    AliasesUnread {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: String,
    },
    /// A file that a rule pins can not be: it does not run.
    NotPinned {
        /// The rule.
        rule: RuleRef,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// More files were not pinned than are told of one by one.
    MoreNotPinned {
        /// How many more.
        count: usize,
    },
    /// A rule with a pin found no file.
    NothingToPin {
        /// The rule.
        rule: RuleRef,
        /// The pattern as written.
        pattern: String,
    },
    /// A name is denied where the default is to allow: its addresses can still be reached.
    NameOnly {
        /// The rule.
        rule: RuleRef,
        /// The name as written.
        target: String,
    },
}

impl Note {
    /// Whether the policy does less, or other, than its author may think.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        match self {
            Self::NotFollowed { .. }
            | Self::Unreadable { .. }
            | Self::AliasesCutOff { .. }
            | Self::AliasesUnread { .. }
            | Self::NotPinned { .. }
            | Self::MoreNotPinned { .. }
            | Self::NothingToPin { .. }
            | Self::NameOnly { .. } => true,
            Self::Followed { .. } => false,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Followed { rule, pattern, resolved } => {
                write!(
                    f,
                    "{rule}: `{pattern}` leads through a symbolic link to `{resolved}`; it stands for both"
                )
            }
            Self::NotFollowed { rule, pattern, link } => write!(
                f,
                "{rule}: `{pattern}` leads through the symbolic link `{}`, which the agent may replace; the link is not followed. Name the file that is meant, or deny writing the link",
                link.display()
            ),
            Self::Unreadable { rule, pattern, error } => {
                write!(f, "{rule}: symbolic links in `{pattern}` were not followed: {error}")
            }
            Self::AliasesCutOff { at, bound } => write!(
                f,
                "the search for hard links of denied files ended at `{}`, after {bound}; links of what lies behind that are not denied. Deny narrower trees, or keep such links out of the agent's reach",
                at.display()
            ),
            Self::AliasesUnread { path, error } => write!(
                f,
                "`{}` could not be searched for hard links of denied files: {error}",
                path.display()
            ),
            Self::NotPinned { rule, path, why } => {
                write!(f, "{rule}: `{}` is not pinned and does not run: {why}", path.display())
            }
            Self::MoreNotPinned { count } => {
                write!(f, "{count} more files are not pinned and do not run")
            }
            Self::NothingToPin { rule, pattern } => write!(
                f,
                "{rule}: there is no file at `{pattern}` to pin; what appears there later does not run"
            ),
            Self::NameOnly { rule, target } => write!(
                f,
                "{rule}: `{target}` is not resolved for the agent, but `default: allow` lets it connect to any address, by whatever name it has it. Use `default: deny`"
            ),
        }
    }
}
