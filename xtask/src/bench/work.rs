//! What is measured: one call of each work, made ready beforehand.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{IntoRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, mkdirat, open, openat, renameat, statat, unlinkat},
    io::{Errno, pread, pwrite},
    net::{AddressFamily, SocketType, connect, socket},
};
use serde::{Deserialize, Serialize};

use super::{mirror::PACKAGE, place::Place, policy::FEW};

/// How many files are opened for the first time.
pub const COLD_FILES: u32 = 400;
/// Where nobody listens; a datagram socket is connected all the same.
pub const DISCARD: u16 = 9;

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    Open2,
    Open8,
    Open32,
    Cold2,
    Cold8,
    Stat,
    Read,
    Write,
    Connect,
    Exec,
    Fail,
    Deny,
    Rename,
    Create,
    Mkdir,
    Git,
    Python,
    Compile,
    Cargo,
    Npm,
    Run,
    Bubblewrap,
    Event,
    EventBySerde,
    EventToFile,
    EventToFileBySerde,
    PolicyParse,
    PolicyCompile,
    PolicyInstall,
    PolicySwap,
}

/// Work that is ready to be done.
pub type Doing = Box<dyn Call>;

/// One call, the `n`th of its round.
pub trait Call {
    fn call(&mut self, n: u32) -> Result<()>;
}

impl<F: FnMut(u32) -> Result<()>> Call for F {
    fn call(&mut self, n: u32) -> Result<()> {
        self(n)
    }
}

impl Work {
    /// What a reader would call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Open2 => "open and close a file, 2 deep",
            Self::Open8 => "open and close, 8 deep",
            Self::Open32 => "open and close, 32 deep",
            Self::Cold2 => "open for the first time, 2 deep",
            Self::Cold8 => "open for the first time, 8 deep",
            Self::Stat => "stat, 8 deep",
            Self::Read => "read a byte",
            Self::Write => "write a byte",
            Self::Connect => "UDP socket, connect, close",
            Self::Exec => "start a small program and wait",
            Self::Fail => "open what is not there",
            Self::Deny => "open what is denied, with its event",
            Self::Rename => "rename there and back",
            Self::Create => "create, close, unlink",
            Self::Mkdir => "mkdir, rmdir",
            Self::Git => "`git status`, 5,000 files",
            Self::Python => "`python3 -c 'import …'`",
            Self::Compile => "`gcc` of a small program",
            Self::Cargo => "`cargo build` of a small crate",
            Self::Npm => "`npm install` of 21 packages",
            Self::Run => "`agent-guard run -- true`",
            Self::Bubblewrap => "`bwrap --ro-bind / / true`",
            Self::Event => "an event, from the ring buffer's bytes to a line",
            Self::EventBySerde => "`serde_json` writing that line",
            Self::EventToFile => "an event, from the ring buffer's bytes into a file",
            Self::EventToFileBySerde => "`serde_json` writing that line into a file",
            Self::PolicyParse => "read a policy of 10,000 rules",
            Self::PolicyCompile => "compile it",
            Self::PolicyInstall => "install it",
            Self::PolicySwap => "swap it for one with a rule more",
        }
    }

    /// What it is without a guard that denies.
    pub fn without_guard(self) -> Self {
        if self == Self::Deny { Self::Fail } else { self }
    }

    /// Whether benches/figures does it, rather than [`Self::prepare`].
    pub fn is_of_own_side(self) -> bool {
        matches!(
            self,
            Self::Event
                | Self::EventBySerde
                | Self::EventToFile
                | Self::EventToFileBySerde
                | Self::PolicyParse
                | Self::PolicyCompile
                | Self::PolicyInstall
                | Self::PolicySwap
        )
    }

    /// Whether most of it is waiting for the kernel, which takes its time.
    pub fn waits(self) -> bool {
        matches!(self, Self::Run | Self::Bubblewrap | Self::PolicyInstall | Self::PolicySwap)
    }

    /// Rounds, and calls in each.
    pub fn repetitions(self) -> (u32, u32) {
        match self {
            // Nothing is done for the first time twice.
            Self::Cold2 | Self::Cold8 => (1, COLD_FILES),
            Self::Exec => (20, 8),
            Self::Git | Self::Python | Self::Compile => (4, 1),
            // They take long.
            Self::Cargo | Self::Npm => (3, 1),
            Self::Run | Self::Bubblewrap => (8, 1),
            // Few enough that events of denials find room while nobody reads them.
            _ => (12, 64),
        }
    }

    /// Makes it ready at `place`.
    pub fn prepare(self, place: &Place) -> Result<Doing> {
        Ok(match self {
            Self::Open2 => opening(&place.file(2))?,
            Self::Open8 => opening(&place.file(8))?,
            Self::Open32 => opening(&place.file(32))?,
            Self::Cold2 => opening_cold(place, 2)?,
            Self::Cold8 => opening_cold(place, 8)?,
            Self::Stat => {
                let path = c_path(&place.file(8))?;
                Box::new(move |_| done(statat(CWD, &path, AtFlags::empty())))
            }
            Self::Read => {
                let file = open(place.file(2), OFlags::RDONLY, Mode::empty())?;
                Box::new(move |_| done(pread(&file, &mut [0; 1], 0)))
            }
            Self::Write => {
                let file = open(place.file(2), OFlags::WRONLY, Mode::empty())?;
                Box::new(move |_| done(pwrite(&file, &[0; 1], 0)))
            }
            Self::Connect => {
                let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, DISCARD);
                Box::new(move |_| {
                    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
                    connect(&socket, &to)?;
                    close(socket)
                })
            }
            Self::Exec => Box::new(|_| {
                // Nothing is opened for it, and nothing set up.
                succeeded("true", Command::new("/bin/true").status())
            }),
            Self::Fail => failing(&place.root().join("missing"), Errno::NOENT)?,
            Self::Deny => failing(&place.denied(), Errno::ACCESS)?,
            Self::Rename => {
                let [one, other] =
                    ["one", "other"].map(|name| c_path(&place.directory(2).join(name)));
                let (one, other) = (one?, other?);
                open(&one, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR)?;
                Box::new(move |_| {
                    renameat(CWD, &one, CWD, &other)?;
                    done(renameat(CWD, &other, CWD, &one))
                })
            }
            Self::Create => {
                let path = c_path(&place.directory(2).join("made"))?;
                Box::new(move |_| {
                    close(open(&path, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR)?)?;
                    done(unlinkat(CWD, &path, AtFlags::empty()))
                })
            }
            Self::Mkdir => {
                let path = c_path(&place.directory(2).join("made"))?;
                Box::new(move |_| {
                    mkdirat(CWD, &path, Mode::RWXU)?;
                    done(unlinkat(CWD, &path, AtFlags::REMOVEDIR))
                })
            }
            Self::Git => spawning("/usr/bin/git", &["status", "--short"], &place.repository())?,
            Self::Python => {
                let program = "import json, ssl, sqlite3, email, http.client, unittest";
                spawning("/usr/bin/python3", &["-c", program], place.root())?
            }
            Self::Compile => {
                fs::write(place.root().join("small.c"), "int main(void) { return 0; }\n")?;
                spawning("/usr/bin/gcc", &["-pipe", "-o", "small", "small.c"], place.root())?
            }
            Self::Cargo => building(place)?,
            Self::Npm => installing(place)?,
            Self::Run => {
                let policy = place.policy(FEW).display().to_string();
                let words = ["run", "--tier", place.tier(), "--policy", &policy, "--", "/bin/true"];
                spawning("agent-guard", &words, place.root())?
            }
            Self::Bubblewrap => {
                spawning("bwrap", &["--ro-bind", "/", "/", "/bin/true"], place.root())?
            }
            Self::Event
            | Self::EventBySerde
            | Self::EventToFile
            | Self::EventToFileBySerde
            | Self::PolicyParse
            | Self::PolicyCompile
            | Self::PolicyInstall
            | Self::PolicySwap => bail!("{self:?} is the work of benches/figures"),
        })
    }
}

fn opening(path: &Path) -> Result<Doing> {
    let path = c_path(path)?;
    Ok(Box::new(move |_| close(open(&path, OFlags::RDONLY, Mode::empty())?)))
}

fn opening_cold(place: &Place, depth: usize) -> Result<Doing> {
    let paths: Result<Vec<CString>> =
        (0..COLD_FILES).map(|n| c_path(&place.cold(depth, n))).collect();
    let mut paths = paths?.into_iter();
    Ok(Box::new(move |_| {
        let path = paths.next().context("no file is left that was not opened")?;
        close(openat(CWD, &path, OFlags::RDONLY, Mode::empty())?)
    }))
}

/// Opens what can not be opened.
fn failing(path: &Path, with: Errno) -> Result<Doing> {
    let path = c_path(path)?;
    Ok(Box::new(move |_| match open(&path, OFlags::RDONLY, Mode::empty()) {
        Err(error) if error == with => Ok(()),
        other => bail!("{path:?} was to fail with {with}, and gave {other:?}"),
    }))
}

/// Builds the crate, each time from nothing.
fn building(place: &Place) -> Result<Doing> {
    let mut command = silent(place.tools().join("bin/cargo"))?;
    command.args(["build", "--quiet", "--offline"]).current_dir(place.small_crate());
    command.env("RUSTC", place.tools().join("bin/rustc")).env("HOME", place.root());
    command.env("CARGO_HOME", place.root().join("cargo-home"));
    let mut fresh = fresh(place, "built");
    Ok(Box::new(move |_| succeeded("cargo", command.env("CARGO_TARGET_DIR", fresh()).status())))
}

/// Installs the package of the mirror, each time from nothing.
fn installing(place: &Place) -> Result<Doing> {
    let mut command = silent("npm")?;
    command.args(["install", PACKAGE]).env("HOME", place.root());
    let mut fresh = fresh(place, "installed");
    Ok(Box::new(move |_| {
        let directory = fresh();
        fs::create_dir(&directory)?;
        fs::write(directory.join("package.json"), "{}")?;
        let cache = directory.join("cache");
        succeeded("npm", command.env("npm_config_cache", cache).current_dir(&directory).status())
    }))
}

/// Names of directories that are not there yet.
fn fresh(place: &Place, name: &str) -> impl FnMut() -> PathBuf + use<> {
    let base = place.root().join(format!("{name}-{}", std::process::id()));
    let mut count = 0;
    move || {
        count += 1;
        base.with_extension(count.to_string())
    }
}

fn spawning(program: &str, arguments: &[&str], directory: &Path) -> Result<Doing> {
    let mut command = silent(program)?;
    command.args(arguments).current_dir(directory).env("HOME", directory);
    let program = program.to_owned();
    Ok(Box::new(move |_| succeeded(&program, command.status())))
}

/// A command with its output thrown away, but for what it has to say of errors.
fn silent(program: impl AsRef<OsStr>) -> Result<Command> {
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    let mut command = Command::new(program);
    command.stdin(nowhere.try_clone()?).stdout(nowhere);
    Ok(command)
}

fn succeeded(program: &str, status: io::Result<ExitStatus>) -> Result<()> {
    match status.with_context(|| program.to_owned())? {
        status if status.success() => Ok(()),
        status => bail!("{program} ended with {status}"),
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).context("a path with a NUL")
}

/// Closes at once. What drops a descriptor looks at it first where assertions are on, and that would be measured.
fn close(descriptor: OwnedFd) -> Result<()> {
    // SAFETY: it is owned here, and nobody uses it afterwards.
    unsafe { rustix::io::close(descriptor.into_raw_fd()) };
    Ok(())
}

fn done<T>(result: Result<T, Errno>) -> Result<()> {
    result?;
    Ok(())
}
