//! Debian packages: those of this machine, and those fetched for a guest with an apt of its own.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{command, output, retry, run};

/// Used where this machine's own apt names no mirror reachable by HTTP.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// Settings of this machine's apt that a download needs too: proxies, certificates, clock checks.
const DOWNLOAD_SETTINGS: [&str; 4] =
    ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::ForceIP"];

/// The code name of the Debian release this machine runs, from `/etc/os-release`.
pub fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    release_in(&text).with_context(|| {
        let name = field(&text, "PRETTY_NAME").unwrap_or("an unknown system");
        format!("this is {name}, and only Debian can be set up (12 is tested)")
    })
}

fn release_in(os_release: &str) -> Option<String> {
    (field(os_release, "ID")? == "debian").then_some(())?;
    field(os_release, "VERSION_CODENAME").map(str::to_owned)
}

fn field<'a>(os_release: &'a str, name: &str) -> Option<&'a str> {
    let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.map(|value| value.trim_matches('"'))
}

/// Those of `packages` that are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails when it does not know one of the names, and still answers for the others.
    let answer = command("dpkg-query", ["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot start dpkg-query")?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let installed: Vec<&str> =
        answer.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().copied().filter(|name| !installed.contains(name)).collect())
}

/// Keeps a service that is about to be installed from being started, now and later.
pub fn mask(service: &str) -> Result<()> {
    let units = Path::new("/etc/systemd/system");
    // A machine without systemd starts nothing by units, and an administrator's own unit is left alone.
    if !units.is_dir() || units.join(service).symlink_metadata().is_ok() {
        return Ok(());
    }
    symlink("/dev/null", units.join(service)).with_context(|| format!("masking {service}"))
}

/// Installs `packages` on this machine.
pub fn install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| {
        run(command("apt-get", ["-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    };
    retry("apt-get update", || apt(&["update"]))?;
    retry("apt-get install", || apt(&[&["install", "--no-install-recommends"], packages].concat()))
}

/// Where this machine gets Debian from.
pub struct Mirrors {
    pub main: String,
    pub security: String,
}

impl Mirrors {
    /// Reads them from this machine's apt sources.
    pub fn of_this_machine(release: &str) -> Result<Self> {
        let format = "$(REPO_URI) $(RELEASE)";
        let targets = output(&mut command(
            "apt-get",
            ["indextargets", "--format", format, "Created-By: Packages"],
        ))?;
        let find = |suite: &str| mirror_for(&targets, suite);
        Ok(Self {
            main: find(release).unwrap_or_else(|| DEFAULT_MIRROR.to_owned()),
            security: find(&format!("{release}-security"))
                .unwrap_or_else(|| DEFAULT_SECURITY_MIRROR.to_owned()),
        })
    }

    /// The `sources.list` lines of one release with its updates.
    pub fn sources(&self, release: &str) -> [String; 3] {
        let Self { main, security } = self;
        [
            format!("deb {main} {release} main"),
            format!("deb {main} {release}-updates main"),
            format!("deb {security} {release}-security main"),
        ]
    }
}

/// The HTTP address that `targets` (lines of address and suite) gives for `suite`.
fn mirror_for(targets: &str, suite: &str) -> Option<String> {
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(uri, name)| uri.starts_with("http") && *name == suite)
        .map(|(uri, _)| uri.trim_end_matches('/').to_owned())
}

/// Writes this machine's download settings to `path`, as an apt configuration file.
pub fn write_download_settings(path: &Path) -> Result<()> {
    let all = output(&mut command("apt-config", ["dump", "Acquire"]))?;
    fs::write(path, download_settings(&all)).with_context(|| path.display().to_string())
}

fn download_settings(dump: &str) -> String {
    dump.lines()
        .filter(|line| DOWNLOAD_SETTINGS.iter().any(|name| line.starts_with(name)))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// An apt with its own sources, lists and cache: what it does leaves this machine's apt as it was.
pub struct PrivateApt {
    dir: PathBuf,
}

impl PrivateApt {
    /// Sets it up in the empty directory `dir` and fetches the lists of `suites` from `mirror`.
    pub fn new(dir: &Path, mirror: &str, suites: &[&str]) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| dir.display().to_string())?;
        }
        let sources: String =
            suites.iter().map(|suite| format!("deb {mirror} {suite} main\n")).collect();
        fs::write(dir.join("sources.list"), sources)?;

        let settings = dir.join("apt.conf");
        write_download_settings(&settings)?;
        let shown = dir.display();
        let own = format!(
            "Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::sourcelist \"{shown}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::State::lists \"{shown}/lists\";\nDir::Cache \"{shown}/cache\";\n\
             Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n"
        );
        fs::write(&settings, fs::read_to_string(&settings)? + &own)?;

        let apt = Self { dir: dir.to_owned() };
        retry("fetching Debian's package lists", || {
            run(apt.command("apt-get").args(["-q", "--error-on=any", "update"]))
        })?;
        Ok(apt)
    }

    /// The names of all packages that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Fetches one package and gives the path of its `.deb`.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        retry(&format!("fetching {package}"), || {
            run(self.command("apt-get").args(["-q", "download", package]))
        })?;
        let fetched = fs::read_dir(&self.dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut debs = fetched.filter(|path| path.extension().is_some_and(|name| name == "deb"));
        match debs.next() {
            Some(deb) => Ok(deb),
            None => bail!("apt-get download {package} left no .deb in {}", self.dir.display()),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).current_dir(&self.dir);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_has_a_release() {
        assert_eq!(
            release_in("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(),
            Some("bookworm")
        );
        assert_eq!(release_in("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(release_in("ID=\"debian\"\n"), None);
    }

    #[test]
    fn the_mirror_is_the_one_of_the_suite_and_spoken_to_by_http() {
        let targets = "mirror+file:/etc/apt/m trixie\nhttp://a.example/debian/ bookworm\n\
                       https://b.example/sec/ bookworm-security\n";
        assert_eq!(mirror_for(targets, "bookworm").as_deref(), Some("http://a.example/debian"));
        assert_eq!(
            mirror_for(targets, "bookworm-security").as_deref(),
            Some("https://b.example/sec")
        );
        assert_eq!(mirror_for(targets, "trixie"), None);
    }

    #[test]
    fn a_proxy_is_kept_and_index_targets_are_not() {
        let dump = "Acquire \"\";\nAcquire::http::Proxy \"http://p:1\";\n\
                    Acquire::IndexTargets::deb::DEP-11 \"\";\nAcquire::Check-Date \"false\";\n";
        assert_eq!(
            download_settings(dump),
            "Acquire::http::Proxy \"http://p:1\";\nAcquire::Check-Date \"false\";\n"
        );
    }
}
