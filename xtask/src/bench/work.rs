//! What is measured: one call of each work, made ready beforehand.

use std::{
    ffi::CString,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{IntoRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, mkdirat, open, openat, renameat, statat, unlinkat},
    io::{Errno, pread, pwrite},
    net::{AddressFamily, SocketType, connect, socket},
};
use serde::{Deserialize, Serialize};

/// How many files are opened for the first time.
pub const COLD_FILES: u32 = 400;
/// Where nobody listens; a datagram socket is connected all the same.
pub const DISCARD: u16 = 9;

/// A piece of work, by what a user would call it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
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
}

/// The directory that the work is done in, as the stage has laid it out.
pub struct Place {
    root: PathBuf,
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

impl Place {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory in which a file's path has this many components.
    pub fn directory(&self, depth: usize) -> PathBuf {
        let own = self.root.components().count() - 1;
        let mut path = self.root.clone();
        path.extend(std::iter::repeat_n("directory", depth - own - 1));
        path
    }

    pub fn file(&self, depth: usize) -> PathBuf {
        self.directory(depth).join("file")
    }

    pub fn cold(&self, depth: usize, n: u32) -> PathBuf {
        self.directory(depth).join(format!("cold-{n}"))
    }

    pub fn denied(&self) -> PathBuf {
        self.root.join("denied/file")
    }

    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }
}

impl Work {
    /// Rounds, and calls in each.
    pub fn repetitions(self) -> (u32, u32) {
        match self {
            // Nothing is done for the first time twice.
            Self::Cold2 | Self::Cold8 => (1, COLD_FILES),
            Self::Exec => (5, 4),
            Self::Git | Self::Python => (4, 1),
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
            Self::Exec => spawning(&["/bin/true"], place.root()),
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
            Self::Git => spawning(&["/usr/bin/git", "status", "--short"], &place.repository()),
            Self::Python => {
                let program = "import json, ssl, sqlite3, email, http.client, unittest";
                spawning(&["/usr/bin/python3", "-c", program], place.root())
            }
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

fn spawning(words: &[&str], directory: &Path) -> Doing {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let directory = directory.to_owned();
    Box::new(move |_| {
        let [program, arguments @ ..] = words.as_slice() else { bail!("no program") };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&directory).env("HOME", &directory);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.with_context(|| program.clone())?;
        if !status.success() {
            bail!("{program} ended with {status}");
        }
        Ok(())
    })
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
