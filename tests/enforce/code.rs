//! An agent that brings code to run by every way but its own name.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
};

use crate::actor::done;

/// Personality bit of programs from before there were pages that can not be run.
const READ_IMPLIES_EXEC: libc::c_ulong = 0x040_0000;
const PAGE: usize = 4096;

/// Does what the words say.
pub fn attempt(words: &[&str]) -> io::Result<()> {
    match words {
        ["map", path] => map(&File::open(path)?, libc::PROT_READ | libc::PROT_EXEC).map(drop),
        ["map-later", path] => {
            let file = File::open(path)?;
            make_code(map(&file, libc::PROT_READ)?)
        }
        ["map-implied", path] => {
            let file = File::open(path)?;
            // SAFETY: a number.
            done(unsafe { libc::personality(READ_IMPLIES_EXEC) }.into())?;
            map(&file, libc::PROT_READ).map(drop)
        }
        ["map-implied-later", path] => {
            let file = File::open(path)?;
            let at = map(&file, libc::PROT_READ)?;
            // SAFETY: a number.
            done(unsafe { libc::personality(READ_IMPLIES_EXEC) }.into())?;
            // SAFETY: a page that was mapped just now.
            done(unsafe { libc::mprotect(at, PAGE, libc::PROT_READ) }.into()).map(drop)
        }
        ["map-memfd", program] => {
            map(&memfd_of(&fs::read(program)?)?, libc::PROT_READ | libc::PROT_EXEC).map(drop)
        }
        ["map-removed", program, at] => {
            map(&removed(program, at)?, libc::PROT_READ | libc::PROT_EXEC).map(drop)
        }
        ["map-anonymous"] => map_anonymous(),
        ["map-after", change, program] => {
            changed(program, change)?;
            attempt(&["map", program])
        }
        ["map-later-after", change, program] => {
            changed(program, change)?;
            attempt(&["map-later", program])
        }
        ["run-after", change, program] => {
            changed(program, change)?;
            exec(program)
        }
        ["run-by-loader-after", change, program] => {
            changed(program, change)?;
            attempt(&["run-by-loader", program])
        }
        ["run", program] => exec(program),
        ["run-copy", program, at] => {
            fs::copy(program, at)?;
            exec(at)
        }
        ["run-as", name, program] => {
            let name = CString::new(*name).unwrap();
            // SAFETY: a name with its end.
            done(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }.into())?;
            exec(program)
        }
        ["run-by-loader", program] => exec_with("/lib64/ld-linux-x86-64.so.2", &[program]),
        ["run-memfd", program] => exec_descriptor(&memfd_of(&fs::read(program)?)?),
        ["run-memfd-script", interpreter] => {
            exec_descriptor(&memfd_of(format!("#!{interpreter}\n").as_bytes())?)
        }
        ["run-memfd-by-name", program] => {
            let memfd = memfd_of(&fs::read(program)?)?;
            exec(&format!("/proc/self/fd/{}", memfd.as_raw_fd()))
        }
        ["run-removed", program, at] => exec_descriptor(&removed(program, at)?),
        ["run-unnamed", program, directory] => exec_descriptor(&unnamed(program, directory)?),
        ["run-held", program] => exec_descriptor(&File::open(program)?),
        ["spawn", program] => spawn(program),
        ["vfork", program] => vfork(program),
        ["write-memfd-again"] => write_memfd_again(),
        other => panic!("{other:?}: no such way"),
    }
}

/// Changes something of a program, which afterwards does the same as before.
fn changed(program: &str, change: &str) -> io::Result<()> {
    let beside = format!("{program}.beside");
    match change {
        "nothing" => Ok(()),
        "read" => fs::read(program).map(drop),
        "append" => File::options().append(true).open(program)?.write_all(b"\n"),
        "rewrite" => fs::write(program, fs::read(program)?),
        "store" => {
            let file = File::options().read(true).write(true).open(program)?;
            // What is mapped for writing is not run.
            Stored::map(&file).map(drop)
        }
        "chmod" => {
            let mode = fs::metadata(program)?.permissions().mode() ^ 0o020;
            fs::set_permissions(program, fs::Permissions::from_mode(mode))
        }
        "touch" => File::open(program)?.set_modified(std::time::SystemTime::now()),
        "restore-times" => {
            let before = fs::metadata(program)?;
            let mut file = File::options().append(true).open(program)?;
            file.write_all(b"\n")?;
            file.set_len(before.len())?;
            let times = fs::FileTimes::new();
            file.set_times(times.set_accessed(before.accessed()?).set_modified(before.modified()?))
        }
        "replace" => {
            fs::copy(program, &beside)?;
            fs::rename(&beside, program)
        }
        "make-anew" => {
            let (content, mode) = (fs::read(program)?, fs::metadata(program)?.permissions());
            fs::remove_file(program)?;
            fs::write(program, content)?;
            fs::set_permissions(program, mode)
        }
        "link" => {
            fs::hard_link(program, &beside)?;
            fs::remove_file(&beside)
        }
        "move-away-and-back" => {
            fs::rename(program, &beside)?;
            fs::rename(&beside, program)
        }
        other => panic!("{other:?}: no such change"),
    }
}

/// A page of a file that is mapped for all to see, and stored to: its first byte is what it was.
pub struct Stored(*mut libc::c_void);

impl Stored {
    pub fn map(file: &File) -> io::Result<Self> {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let at = map_with(both, libc::MAP_SHARED, file.as_raw_fd())?;
        let first: *mut u8 = at.cast();
        // SAFETY: a page that was mapped just now. Volatile, because it stores what is there already.
        unsafe { first.write_volatile(first.read_volatile()) };
        Ok(Self(at))
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nothing else points there.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}

fn map(file: &impl AsRawFd, protection: libc::c_int) -> io::Result<*mut libc::c_void> {
    map_with(protection, libc::MAP_PRIVATE, file.as_raw_fd())
}

fn map_with(
    protection: libc::c_int,
    flags: libc::c_int,
    file: libc::c_int,
) -> io::Result<*mut libc::c_void> {
    // SAFETY: a new page, wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, file, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
}

fn make_code(at: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: a page that was mapped just now.
    done(unsafe { libc::mprotect(at, PAGE, libc::PROT_READ | libc::PROT_EXEC) }.into()).map(drop)
}

/// Memory that has no file, as just-in-time compilers use it: private, shared, and of System V.
fn map_anonymous() -> io::Result<()> {
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    map_with(all, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    map_with(all, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)?;
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        make_code(map_with(libc::PROT_READ, flags | libc::MAP_ANONYMOUS, -1)?)?;
    }
    // SAFETY: numbers; the segment goes when this process ends.
    unsafe {
        let segment = done(libc::shmget(libc::IPC_PRIVATE, PAGE, 0o700).into())?;
        let at = libc::shmat(segment, std::ptr::null(), libc::SHM_EXEC);
        libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut());
        if at as isize == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn memfd_of(content: &[u8]) -> io::Result<File> {
    // SAFETY: a name with its end.
    let memfd = done(unsafe { libc::memfd_create(c"x".as_ptr(), 0) }.into())?;
    // SAFETY: fresh from the kernel.
    let mut memfd = unsafe { File::from(OwnedFd::from_raw_fd(memfd)) };
    memfd.write_all(content)?;
    Ok(memfd)
}

/// Opens a memfd once more by its link under `/proc`, and writes through that.
fn write_memfd_again() -> io::Result<()> {
    let memfd = memfd_of(b"first")?;
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    File::options().write(true).open(&path)?.write_all(b"again")?;
    let mut content = String::new();
    File::open(&path)?.read_to_string(&mut content)?;
    assert_eq!(content, "again");
    Ok(())
}

/// A copy of `program` at `at`, open for reading, whose name is gone.
fn removed(program: &str, at: &str) -> io::Result<File> {
    fs::copy(program, at)?;
    let file = File::open(at)?;
    fs::remove_file(at)?;
    Ok(file)
}

/// A copy of `program` in `directory` that never had a name, open for reading.
fn unnamed(program: &str, directory: &str) -> io::Result<File> {
    let mut options = File::options();
    let mut writer =
        options.write(true).mode(0o700).custom_flags(libc::O_TMPFILE).open(directory)?;
    writer.write_all(&fs::read(program)?)?;
    writer.set_permissions(fs::Permissions::from_mode(0o700))?;
    // What is open for writing is not run.
    File::open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
}

fn exec(program: &str) -> io::Result<()> {
    exec_with(program, &[])
}

fn exec_with(program: &str, arguments: &[&str]) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    Err(std::process::Command::new(program).args(arguments).exec())
}

fn exec_descriptor(file: &File) -> io::Result<()> {
    let (arguments, environment) =
        ([c"t".as_ptr(), std::ptr::null()], [std::ptr::null::<libc::c_char>()]);
    // SAFETY: an empty path, and lists that end with null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    done(result).map(drop)
}

fn spawn(program: &str) -> io::Result<()> {
    let program = CString::new(program).unwrap();
    let (arguments, environment) =
        ([program.as_ptr().cast_mut(), std::ptr::null_mut()], [std::ptr::null_mut()]);
    let mut pid = 0;
    // SAFETY: a path, and lists that end with null.
    let error = unsafe {
        libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    match error {
        0 => succeeded(pid),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn vfork(program: &str) -> io::Result<()> {
    let program = CString::new(program).unwrap();
    let (arguments, environment) =
        ([program.as_ptr(), std::ptr::null()], [std::ptr::null::<libc::c_char>()]);
    // SAFETY: the child only execs or ends; its exit code is the error.
    let pid = unsafe {
        let pid = libc::syscall(
            libc::SYS_clone,
            libc::CLONE_VFORK | libc::SIGCHLD,
            0_usize,
            0_usize,
            0_usize,
            0_usize,
        );
        if pid == 0 {
            libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(*libc::__errno_location());
        }
        pid
    };
    succeeded(done(pid)?)
}

fn succeeded(pid: libc::pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the child is ours.
    done(unsafe { libc::waitpid(pid, &mut status, 0) }.into())?;
    match status {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::WEXITSTATUS(status))),
    }
}
