//! The processes of a cgroup.

use std::{fs, path::Path, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};

/// How long the oldest process in the cgroup or below has run; `None` where nobody is in it.
pub fn oldest(cgroup: &Path) -> Option<Duration> {
    let start = oldest_start(cgroup)?;
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    Some(now.saturating_sub(start))
}

/// When it started, since the start of the system.
fn oldest_start(cgroup: &Path) -> Option<Duration> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).ok()?;
    let own = processes.lines().filter_map(start);
    let entries = fs::read_dir(cgroup).ok()?.flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    own.chain(below.filter_map(|entry| oldest_start(&entry.path()))).min()
}

/// When a process started: field 22 of its `stat`, behind the name, which may hold anything.
fn start(pid: &str) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    let ticks: u64 = behind.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let per_second = clock_ticks_per_second();
    let nanos = (ticks % per_second).saturating_mul(1_000_000_000) / per_second;
    Some(Duration::new(ticks / per_second, u32::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_process_is_known() {
        let me = std::process::id().to_string();
        let start = start(&me).unwrap();
        let now = clock_gettime(ClockId::Boottime);
        let age = Duration::new(now.tv_sec.cast_unsigned(), 0).saturating_sub(start);
        assert!(age < Duration::from_secs(3600), "{age:?}");
        assert_eq!(super::start("0"), None);
    }

    #[test]
    fn the_oldest_of_all_below_counts_and_nobody_has_no_age() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.procs"), "").unwrap();
        assert_eq!(oldest(directory.path()), None);
        let below = directory.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("cgroup.procs"), format!("{}\n1\n", std::process::id())).unwrap();
        assert_eq!(oldest_start(directory.path()), start("1"));
    }
}
