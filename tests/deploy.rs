//! What `deploy/` ships is what the program takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent_guard::{daemon::config::Config, policy::Policy};
use serde::Deserialize;

fn deploy(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(below)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kustomization {
    resources: Vec<String>,
    #[serde(default)]
    config_map_generator: Vec<Generator>,
}

#[derive(Deserialize)]
struct Generator {
    files: Vec<String>,
}

#[test]
fn every_configuration_is_one() {
    for file in
        ["config.toml", "kubernetes/base/config.toml", "kubernetes/overlays/trace/config.toml"]
    {
        Config::load(&deploy(file)).unwrap();
    }
}

#[test]
fn the_policy_of_the_base_is_one() {
    let file = deploy("kubernetes/base/policies/coding-agent.yaml");
    Policy::parse("coding-agent.yaml", &fs::read_to_string(file).unwrap()).unwrap();
}

#[test]
fn what_a_kustomization_names_is_there() {
    for directory in ["kubernetes/base", "kubernetes/overlays/trace"] {
        let directory = deploy(directory);
        let text = fs::read_to_string(directory.join("kustomization.yaml")).unwrap();
        let Kustomization { resources, config_map_generator } =
            serde_saphyr::from_str(&text).unwrap();
        let files = config_map_generator.into_iter().flat_map(|generator| generator.files);
        let named: Vec<String> = resources.into_iter().chain(files).collect();
        assert!(named.len() > 1);
        for name in named {
            assert!(directory.join(&name).exists(), "{}/{name}", directory.display());
        }
    }
}
