//! A mirror of packages for npm, on loopback.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::process::{command, run};

/// What is installed. It depends on [`DEPENDENCIES`] more.
pub const PACKAGE: &str = "bench-package";
const DEPENDENCIES: u32 = 20;
/// Modules of each.
const FILES: u32 = 25;
const VERSION: &str = "1.0.0";

/// The mirror, gone when this is dropped.
pub struct Mirror {
    server: Child,
    pub port: u16,
}

impl Mirror {
    /// Serves packages from `directory`, which is empty.
    pub fn start(directory: &Path) -> Result<Self> {
        let mut server = Command::new("/usr/bin/python3");
        server.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
        server.arg(directory).arg("0").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = server.stderr(Stdio::null()).spawn().context("python3")?;
        let said = server.stdout.take().context("the mirror's standard output")?;
        let mut mirror = Self { server, port: 0 };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        let port = line.split_once(" port ").and_then(|(_, rest)| rest.split(' ').next());
        let port = port.and_then(|port| port.parse().ok());
        mirror.port = port.with_context(|| format!("the mirror said {line:?}"))?;

        let dependencies = (0..DEPENDENCIES).map(|n| format!("{PACKAGE}-{n}"));
        for name in dependencies.clone() {
            mirror.publish(directory, &name, &[])?;
        }
        mirror.publish(directory, PACKAGE, &dependencies.collect::<Vec<_>>())?;
        Ok(mirror)
    }

    fn publish(&self, directory: &Path, name: &str, dependencies: &[String]) -> Result<()> {
        let work = tempfile::tempdir().context("a directory for a package")?;
        let package = work.path().join("package");
        fs::create_dir(&package)?;
        for n in 0..FILES {
            fs::write(package.join(format!("module-{n}.js")), format!("exports.number = {n};\n"))?;
        }
        let needs: serde_json::Map<_, _> =
            dependencies.iter().map(|name| (name.clone(), VERSION.into())).collect();
        let archive = format!("{name}-{VERSION}.tgz");
        let tarball = format!("http://127.0.0.1:{}/{archive}", self.port);
        let manifest = json!({
            "name": name,
            "version": VERSION,
            "dependencies": needs,
            "dist": {"tarball": tarball},
        });
        fs::write(package.join("package.json"), manifest.to_string())?;
        run(command("tar", ["-czf"])
            .arg(directory.join(&archive))
            .arg("package")
            .current_dir(&work))?;
        let index = json!({
            "name": name,
            "dist-tags": {"latest": VERSION},
            "versions": {VERSION: manifest},
        });
        Ok(fs::write(directory.join(name), index.to_string())?)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
