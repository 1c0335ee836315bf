//! What the guard costs: in instructions of guests that count them, without a guard, with Landlock and with
//! agent-guard; and in time on this host.

mod check;
mod count;
mod figures;
mod goals;
mod host;
mod landlock;
pub mod measure;
mod mirror;
mod page;
mod place;
mod plot;
mod policy;
mod rust;
pub mod stage;
mod table;
mod work;

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};

pub use self::check::{Verdict, compare};
use self::figures::Figures;
use crate::{
    build,
    process::say,
    setup,
    toolchain::Rustc,
    vm::{Guest, Kernel, PROGRAMS},
};

/// Counting instructions makes a guest about three times slower.
const LIMIT: Duration = Duration::from_secs(1800);
const FILE: &str = "figures.json";
/// The kernel that CI holds to its record, and that readers are shown first.
pub const USUAL_KERNEL: Kernel = Kernel::V6_12;

/// Measure what the guard costs, beside Landlock and beside nothing
///
/// Guests count their instructions, so those figures are the same on any machine, however busy. On this host it is
/// time, and tier `trace`.
#[derive(clap::Args)]
pub struct Options {
    /// Make the records in docs/bench anew, and the tables and plots that show them
    #[arg(long, conflicts_with = "check")]
    write: bool,
    /// Only make the tables and plots anew, from the records
    #[arg(long, conflicts_with_all = ["check", "write", "kernel", "host"])]
    render: bool,
    /// Fail where instructions are added that the record does not have
    #[arg(long, conflicts_with = "host")]
    check: bool,
    /// Only what tells soon, under two minutes a kernel
    #[arg(long, requires = "check", conflicts_with_all = ["write", "render"])]
    short: bool,
    /// Only guests with this kernel: 6.1, 6.12 or 7.2; may be repeated
    #[arg(long, value_name = "K")]
    kernel: Vec<Kernel>,
    /// Only on this host
    #[arg(long)]
    host: bool,
}

impl Options {
    pub fn run(self) -> Result<u8> {
        if self.render {
            page::render()?;
            return Ok(0);
        }
        let rustc = setup::setup()?;
        let (kernels, on_host) = self.places();
        if self.check {
            return Ok(u8::from(!check_all(&rustc, &kernels, self.short)?));
        }
        if on_host {
            // Rather now than after all guests.
            host::is_bare()?;
        }
        for kernel in &kernels {
            let figures = measure(&rustc, *kernel, false)?;
            println!("{}", table::of_guest(&figures));
            if self.write {
                figures.write(&record(&kernel.to_string())?)?;
            }
        }
        if on_host {
            let figures = host::measure(&rustc)?;
            println!("{}", table::of_host(&figures));
            if self.write {
                figures.write(&record(HOST)?)?;
            }
        }
        if self.write { page::render().map(|()| 0) } else { Ok(0) }
    }
}

impl Options {
    /// The kernels whose guests are wanted, and whether this host is.
    fn places(&self) -> (Vec<Kernel>, bool) {
        match (self.kernel.is_empty(), self.host) {
            (false, host) => (self.kernel.clone(), host),
            (true, true) => (Vec::new(), true),
            // Nothing is held against a record of time.
            (true, false) => (Kernel::ALL.into(), !self.check),
        }
    }
}

/// Compares each kernel with its record and prints what came of it; true when none adds more.
fn check_all(rustc: &Rustc, kernels: &[Kernel], short: bool) -> Result<bool> {
    let mut held = true;
    for kernel in kernels {
        for verdict in against_record(rustc, *kernel, short)? {
            println!("kernel {kernel}: {verdict}");
            held &= verdict.is_held();
        }
    }
    Ok(held)
}

/// What `kernel` adds now, beside what its record says.
pub fn against_record(rustc: &Rustc, kernel: Kernel, short: bool) -> Result<Vec<Verdict>> {
    let record = Figures::read(&record(&kernel.to_string())?).with_context(|| {
        format!("`cargo xtask bench --write --kernel {kernel}` makes the record")
    })?;
    compare(&measure(rustc, kernel, short)?, &record)
}

/// The record of this host.
const HOST: &str = "host";

/// Where the figures of a kernel are kept.
fn record(name: &str) -> Result<PathBuf> {
    let directory = build::root()?.join("docs/bench");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory.join(format!("{name}.json")))
}

fn measure(rustc: &Rustc, kernel: Kernel, short: bool) -> Result<Figures> {
    say(format!("Counting instructions on kernel {kernel} (some minutes)"));
    let share = tempfile::tempdir().context("a directory for the guest to write to")?;
    let own_side = build::bench(rustc)?;
    let name = own_side.file_name().context("a program without a name")?;
    let mut command: Vec<OsString> = ["xtask", "bench-stage", "--own-side"].map(Into::into).into();
    command.push(PathBuf::from(PROGRAMS).join(name).into());
    command.extend(["--to".into(), PathBuf::from("/share").join(FILE).into()]);
    command.extend(short.then(|| "--short".into()));
    let tools = tempfile::tempdir().context("a directory for a toolchain")?;
    // As it is released: a debug build makes calls of its own.
    let mut programs = vec![own_side, build::xtask(rustc)?];
    if !short {
        programs.push(tools.path().join(rust::NAME));
        rust::copy(&rust::sysroot()?, &tools.path().join(rust::NAME))?;
    }
    let guest = Guest {
        kernel,
        append: String::new(),
        icount: true,
        share: Some(share.path().to_owned()),
        timeout: LIMIT,
        programs,
        command,
    };
    let status = guest.run(rustc, std::io::stdout())?;
    if status != 0 {
        bail!("kernel {kernel}: measuring ended with status {status}");
    }
    Figures::read(&share.path().join(FILE))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn places(words: &[&str]) -> Option<(Vec<Kernel>, bool)> {
        let line = Line::try_parse_from(["bench"].iter().chain(words)).ok()?;
        Some(line.options.places())
    }

    #[test]
    fn options_narrow_where_it_is_measured() {
        assert_eq!(places(&[]), Some((Kernel::ALL.into(), true)));
        assert_eq!(places(&["--host"]), Some((vec![], true)));
        assert_eq!(places(&["--kernel", "6.1"]), Some((vec![Kernel::V6_1], false)));
        assert_eq!(places(&["--kernel", "6.1", "--host"]), Some((vec![Kernel::V6_1], true)));
        assert_eq!(places(&["--check"]), Some((Kernel::ALL.into(), false)));
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for words in [
            ["--render", "--short"],
            ["--check", "--write"],
            ["--check", "--host"],
            ["--write", "--short"],
        ] {
            assert_eq!(places(&words), None, "{words:?}");
        }
    }
}
