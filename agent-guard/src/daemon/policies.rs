//! The directory of policies: which are in force, and what is wrong with the others.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::trusted::trusted;
use crate::{
    identity::Identity,
    policy::{Fit, MAX_FILE_BYTES, Policy},
};

/// A policy that is good.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its file.
    pub file: PathBuf,
    /// What that held.
    pub text: Arc<str>,
}

impl Loaded {
    /// What holds where a workload's policy can not: nothing is allowed.
    pub fn stand_in() -> Self {
        Self { policy: Arc::new(Policy::nothing()), file: "built in".into(), text: "".into() }
    }
}

/// The policies of a directory, by name.
#[derive(Debug, Default)]
pub struct Policies {
    loaded: BTreeMap<String, Loaded>,
    problems: BTreeMap<PathBuf, String>,
}

/// What a reading of the directory has changed, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New, or other than before.
    pub changed: Vec<String>,
    /// Not there any more.
    pub removed: Vec<String>,
}

/// Which policy a workload is to be under.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// None is for it.
    None,
    /// This one.
    One(&'a str),
    /// Several are for it.
    Several(Vec<&'a str>),
    /// These are, or could be: by what is known of it that can not be told of all of them.
    Unknown(Vec<&'a str>),
}

impl Policies {
    /// Reads the directory. A file that is no policy leaves the one in force that it was before.
    ///
    /// # Errors
    /// The directory can not be read; then nothing has changed.
    pub fn read(&mut self, directory: &Path) -> io::Result<Changes> {
        let mut problems = BTreeMap::new();
        let mut now: BTreeMap<String, Loaded> = BTreeMap::new();
        let mut bad = Vec::new();
        for file in files(directory)? {
            match load(&file) {
                Ok(loaded) => {
                    let name = loaded.policy.name.to_string();
                    let holder = now.get(&name).or_else(|| self.loaded.get(&name));
                    match holder.filter(|holder| holder.file != file && holder.file.exists()) {
                        Some(holder) => {
                            let other = holder.file.display();
                            problems.insert(
                                file,
                                format!("the name `{name}` is taken by {other}; give one of them another `metadata.name`"),
                            );
                        }
                        None => {
                            now.insert(name, loaded);
                        }
                    }
                }
                Err(problem) => {
                    problems.insert(file.clone(), problem);
                    bad.push(file);
                }
            }
        }
        for (name, loaded) in &self.loaded {
            if bad.contains(&loaded.file) && !now.contains_key(name) {
                now.insert(name.clone(), loaded.clone());
            }
        }
        let is_same = |name: &String, loaded: &Loaded| {
            let before = self.loaded.get(name);
            before.is_some_and(|before| before.policy.revision == loaded.policy.revision)
        };
        let changed = now.iter().filter(|(name, loaded)| !is_same(name, loaded));
        let changed = changed.map(|(name, _)| name.clone()).collect();
        let removed = self.loaded.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        self.loaded = now;
        self.problems = problems;
        Ok(Changes { changed, removed })
    }

    /// Takes policies up that were in force before, where their files are bad now.
    pub fn recall(&mut self, kept: Vec<Loaded>) {
        for loaded in kept {
            let name = loaded.policy.name.to_string();
            if self.problems.contains_key(&loaded.file) && !self.loaded.contains_key(&name) {
                self.loaded.insert(name, loaded);
            }
        }
    }

    /// The policy of this name.
    pub fn get(&self, name: &str) -> Option<&Loaded> {
        self.loaded.get(name)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Loaded)> {
        self.loaded.iter().map(|(name, loaded)| (name.as_str(), loaded))
    }

    /// What is wrong with files of the directory.
    pub fn problems(&self) -> &BTreeMap<PathBuf, String> {
        &self.problems
    }

    /// The policy for a workload.
    pub fn choose(&self, identity: &Identity<'_>) -> Choice<'_> {
        let fits = self.all().map(|(name, loaded)| (name, loaded.policy.selector.covers(identity)));
        let (names, fits): (Vec<&str>, Vec<Fit>) = fits.filter(|(_, fit)| *fit != Fit::No).unzip();
        match names.as_slice() {
            [] => Choice::None,
            _ if fits.contains(&Fit::Unknown) => Choice::Unknown(names),
            [name] => Choice::One(name),
            _ => Choice::Several(names),
        }
    }
}

/// The policy in `file`, or what is wrong with it.
fn load(file: &Path) -> Result<Loaded, String> {
    trusted(file).map_err(|error| error.to_string())?;
    let length = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES as u64 {
        return Err(format!("it has {length} bytes, where a policy has at most {MAX_FILE_BYTES}"));
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let policy = Policy::parse(&file.display().to_string(), &text)
        .map_err(|error| format!("{:?}", miette::Report::new(error)))?;
    match policy.name.to_string() == Policy::NOTHING {
        true => Err(format!("the name `{}` is the daemon's own; take another", Policy::NOTHING)),
        false => Ok(Loaded { policy: Arc::new(policy), file: file.to_owned(), text: text.into() }),
    }
}

/// Its files that are to be policies, in the order of their names.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    trusted(directory)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_yaml =
            path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && !is_hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::identity::Container;

    struct Directory {
        directory: tempfile::TempDir,
        policies: Policies,
    }

    impl Directory {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap(), policies: Policies::default() }
        }

        fn write(&self, file: &str, name: &str, spec: &str) {
            let text = format!(
                "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
            );
            self.put(file, &text);
        }

        fn put(&self, file: &str, text: &str) {
            let path = self.directory.path().join(file);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }

        fn read(&mut self) -> (Vec<String>, Vec<String>) {
            let Changes { changed, removed } = self.policies.read(self.directory.path()).unwrap();
            (changed, removed)
        }

        fn problem(&self, file: &str) -> &str {
            &self.policies.problems()[&self.directory.path().join(file)]
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_is_new_other_or_gone_is_told() {
        let mut directory = Directory::new();
        directory.write("a.yaml", "a", "{}");
        directory.write("b.yml", "b", "{}");
        directory.write("c.txt", "c", "{}");
        directory.write(".d.yaml", "d", "{}");
        assert_eq!(directory.read(), (names(&["a", "b"]), names(&[])));
        assert_eq!(directory.read(), (names(&[]), names(&[])));
        directory.write("a.yaml", "a", "{mode: audit}");
        fs::remove_file(directory.directory.path().join("b.yml")).unwrap();
        assert_eq!(directory.read(), (names(&["a"]), names(&["b"])));
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_policy() {
        let mut directory = Directory::new();
        directory.write("a.yaml", "a", "{mode: audit}");
        directory.read();
        directory.write("a.yaml", "a", "{mode: strong}");
        assert_eq!(directory.read(), (names(&[]), names(&[])));
        assert!(directory.policies.get("a").is_some());
        assert!(directory.problem("a.yaml").contains("strong"));
        directory.write("a.yaml", "a", "{mode: enforce}");
        assert_eq!(directory.read(), (names(&["a"]), names(&[])));
        assert!(directory.policies.problems().is_empty());
    }

    #[test]
    fn after_a_start_what_was_good_before_holds_in_place_of_a_bad_file() {
        let mut directory = Directory::new();
        directory.write("a.yaml", "a", "{mode: audit}");
        directory.write("b.yaml", "b", "{}");
        directory.read();
        let kept: Vec<Loaded> =
            directory.policies.all().map(|(_, loaded)| loaded.clone()).collect();
        directory.put("a.yaml", "nothing");
        fs::remove_file(directory.directory.path().join("b.yaml")).unwrap();
        directory.policies = Policies::default();
        directory.read();
        directory.policies.recall(kept);
        assert_eq!(directory.policies.get("a").unwrap().policy.mode, crate::policy::Mode::Audit);
        assert!(directory.policies.get("b").is_none(), "its file is gone");
        // It stays so until the file is good.
        assert_eq!(directory.read(), (names(&[]), names(&[])));
        assert!(directory.policies.get("a").is_some());
    }

    #[test]
    fn of_two_files_with_one_name_the_one_in_force_stays() {
        let mut directory = Directory::new();
        directory.write("b.yaml", "x", "{mode: audit}");
        directory.read();
        directory.write("a.yaml", "x", "{}");
        assert_eq!(directory.read(), (names(&[]), names(&[])));
        assert!(directory.problem("a.yaml").contains("`x` is taken by"));
        // Until its file goes.
        fs::remove_file(directory.directory.path().join("b.yaml")).unwrap();
        assert_eq!(directory.read(), (names(&["x"]), names(&[])));
    }

    #[test]
    fn a_file_that_others_may_write_is_no_policy() {
        let mut directory = Directory::new();
        directory.write("a.yaml", "a", "{}");
        let path = directory.directory.path().join("a.yaml");
        fs::set_permissions(path, fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(directory.read(), (names(&[]), names(&[])));
        assert!(directory.problem("a.yaml").contains("chmod go-w"));
        // So with the directory, and then nothing of it is read.
        directory.write("a.yaml", "a", "{}");
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.directory.path(), mode).unwrap();
        let refused = directory.policies.read(directory.directory.path()).unwrap_err();
        assert!(refused.to_string().contains("chmod go-w"));
    }

    #[test]
    fn the_name_of_what_stands_in_is_not_to_be_had() {
        let mut directory = Directory::new();
        directory.write("a.yaml", Policy::NOTHING, "{}");
        assert_eq!(directory.read(), (names(&[]), names(&[])));
        assert!(directory.problem("a.yaml").contains("the daemon's own"));
    }

    #[test]
    fn two_policies_for_one_workload_are_no_choice() {
        let mut directory = Directory::new();
        directory.write("a.yaml", "a", "{selector: {cgroups: [/x/*]}}");
        directory.write("b.yaml", "b", "{selector: {cgroups: [/x/b]}}");
        directory.write("c.yaml", "c", "{}");
        directory.read();
        let choose = |cgroup| directory.policies.choose(&Identity::of(cgroup));
        assert_eq!(choose("/x/a"), Choice::One("a"));
        assert_eq!(choose("/x/b"), Choice::Several(vec!["a", "b"]));
        assert_eq!(choose("/y"), Choice::None);
    }

    #[test]
    fn where_it_is_not_known_what_a_workload_is_there_is_no_choice() {
        let mut directory = Directory::new();
        let container = format!("/docker/{}", "0".repeat(64));
        directory.write("a.yaml", "a", "{selector: {images: ['docker.io/acme/*']}}");
        directory.write("b.yaml", "b", "{selector: {cgroups: [/docker/*]}}");
        directory.read();
        let choose = |identity| directory.policies.choose(&identity);
        assert_eq!(choose(Identity::of(&container)), Choice::Unknown(vec!["a", "b"]));
        let image = Some("docker.io/other/x:1".to_owned());
        let known = Container { image, ..Container::default() };
        let identity = Identity::of(&container).with(Some(&known));
        assert_eq!(choose(identity), Choice::One("b"));
    }

    #[test]
    fn a_config_map_is_followed_through_its_links() {
        let mut directory = Directory::new();
        let path = |name: &str| directory.directory.path().join(name);
        let version = |name: &str, spec: &str| {
            fs::create_dir(path(name)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
            directory.write(&format!("{name}/a.yaml"), "a", spec);
        };
        version("..1", "{}");
        version("..2", "{mode: audit}");
        symlink("..1", path("..data")).unwrap();
        symlink("..data/a.yaml", path("a.yaml")).unwrap();
        let swap = path("..data_tmp");
        symlink("..2", &swap).unwrap();
        let link = path("..data");
        assert_eq!(directory.read(), (names(&["a"]), names(&[])));
        fs::rename(swap, link).unwrap();
        assert_eq!(directory.read(), (names(&["a"]), names(&[])));
        assert_eq!(directory.policies.get("a").unwrap().policy.mode, crate::policy::Mode::Audit);
    }
}
