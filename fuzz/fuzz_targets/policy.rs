//! Any text is a policy or is refused: nothing panics, an error can be shown, and what is accepted
//! compiles or says why not.
#![no_main]

use agent_guard::{
    mounts::Mount,
    policy::{
        Policy,
        compile::{Environment, Filesystems, NoLinks, compile},
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let policy = match Policy::parse("fuzz.yaml", text) {
        Ok(policy) => policy,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let root = Mount {
        id: 1,
        parent: 0,
        dev: 8 << 20,
        root: "/".into(),
        mount_point: "/".into(),
        fs_type: "ext4".to_owned(),
        options: String::new().into(),
    };
    let filesystems = Filesystems::from_table(&[root]);
    let environment = Environment { filesystems: &filesystems, links: &NoLinks };
    if let Err(error) = compile(&policy, &environment, [1, 2]) {
        assert!(!error.to_string().is_empty());
    }
});
