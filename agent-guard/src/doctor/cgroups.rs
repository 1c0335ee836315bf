//! The cgroup tree: where it is, and a cgroup of the doctor's own for as long as it looks.

use std::{fs, io, path::Path};

use super::finding::{Finding, Probe, one_line};
use crate::{
    cgroup::Cgroup,
    mounts::{self, Mount, MountTable},
    tier::Tier,
};

const MOUNTED: Probe = Probe { name: "cgroup2 mounted", needed_by: &Tier::ALL };
const OWN: Probe = Probe { name: "cgroup of one's own", needed_by: &Tier::ALL };
const KILL: Probe = Probe { name: "cgroup.kill", needed_by: &Tier::ALL };

/// A cgroup that is removed when this is dropped.
pub struct OwnCgroup {
    cgroup: Option<Cgroup>,
    /// The mount table that it was found by.
    pub mounts: Vec<Mount>,
}

impl OwnCgroup {
    /// The cgroup, as long as this stands.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let Some(cgroup) = self.cgroup.take() else { return };
        let path = cgroup.path().to_owned();
        if let Err(error) = cgroup.remove() {
            // Without cgroup.kill an empty one still goes the plain way.
            if fs::remove_dir(&path).is_err() {
                eprintln!(
                    "agent-guard doctor: {} is left behind: {}",
                    path.display(),
                    one_line(&error)
                );
            }
        }
    }
}

/// Probes the tree, and makes a cgroup in it where that can be done.
pub fn findings() -> (Vec<Finding>, Option<OwnCgroup>) {
    let mounts = match MountTable::open().and_then(|table| table.read()) {
        Ok(mounts) => mounts,
        Err(error) => {
            let remedy = "mount /proc";
            let why = format!("the mount table could not be read: {error}");
            return (
                vec![
                    MOUNTED.unknown(why, remedy),
                    OWN.unknown("needs the mount table", "see `cgroup2 mounted`"),
                ],
                None,
            );
        }
    };
    let Some(mount) = mounts::cgroup2(&mounts).map(Path::to_owned) else {
        let remedy = "`mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`; \
                      in a container, share the host's cgroup tree with it";
        return (
            vec![
                MOUNTED.no("no cgroup2 file system in /proc/self/mountinfo", remedy),
                OWN.unknown("needs cgroup2", "see `cgroup2 mounted`"),
            ],
            None,
        );
    };
    let hybrid = mounts.iter().any(|mount| mount.fs_type == "cgroup");
    let mut findings = vec![MOUNTED.yes(format!(
        "{}{}",
        mount.display(),
        if hybrid { " (hybrid: cgroup v1 hierarchies are mounted too)" } else { "" }
    ))];
    let made = Cgroup::create(&mounts, "doctor");
    match made {
        Ok(cgroup) => {
            findings.push(OWN.yes(format!("{} was made", cgroup.path().display())));
            findings.push(judge_kill(cgroup.path().join("cgroup.kill").try_exists()));
            (findings, Some(OwnCgroup { cgroup: Some(cgroup), mounts }))
        }
        Err(error) => {
            findings.push(OWN.no(
                one_line(&error),
                "run as root (with CAP_DAC_OVERRIDE), or have the cgroup delegated (systemd: Delegate=yes); a read-only tree, as \
                 containers have it, must be mounted writable",
            ));
            (findings, None)
        }
    }
}

fn judge_kill(exists: io::Result<bool>) -> Finding {
    match exists {
        Ok(true) => KILL.yes("an agent can be ended with all its processes at once"),
        Ok(false) => KILL.no(
            "not there: an agent could not be ended with all its processes at once",
            "boot a kernel of 5.14 or later",
        ),
        Err(error) => KILL.unknown(error.to_string(), "run as root"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::State, *};

    #[test]
    fn a_kernel_that_can_not_end_a_cgroup_is_told() {
        assert_eq!(judge_kill(Ok(true)).state, State::Yes);
        assert_eq!(judge_kill(Ok(false)).state, State::No);
        assert_eq!(judge_kill(Err(io::ErrorKind::PermissionDenied.into())).state, State::Unknown);
    }
}
