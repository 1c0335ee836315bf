//! The pods of this node, as a list of Kubernetes's API in a file has them (`kubectl get pods -o json`, or what the
//! kubelet answers to `/pods`): labels and service accounts, which container runtimes are not told.

use std::{collections::BTreeMap, io, path::Path};

use serde::Deserialize;

use super::trees;
use crate::identity::Pod;

/// Where a static pod, whose own uid is a hash, has that hash in the API server's list.
const MIRRORS: &str = "kubernetes.io/config.mirror";

#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    namespace: String,
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default = "default_account")]
    service_account_name: String,
}

/// What a pod has that names none.
fn default_account() -> String {
    "default".to_owned()
}

/// Adds what the list in `file` says of the pod with this uid, which its runtime calls `pod`. Of one that it does not
/// have, nothing more is known.
///
/// # Errors
/// The list can not be read or not be believed.
pub fn complete(file: &Path, uid: &str, pod: &mut Pod) -> io::Result<()> {
    let tree = file.parent().unwrap_or(file);
    let list: Option<List> = trees::read(tree, file)?;
    let is_it = |Item { metadata, .. }: &Item| {
        let has_uid = *metadata.uid == *uid
            || metadata.annotations.get(MIRRORS).is_some_and(|mirrored| *mirrored == *uid);
        has_uid && metadata.namespace == pod.namespace && metadata.name == pod.name
    };
    let found = list.and_then(|list| list.items.into_iter().find(is_it));
    if let Some(Item { metadata, spec }) = found {
        pod.labels = Some(metadata.labels);
        pod.service_account = Some(spec.service_account_name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    const LIST: &str = r#"{"kind": "PodList", "items": [
        {"metadata": {"uid": "u1", "namespace": "agents", "name": "coding-1",
                      "labels": {"app": "coding"}}, "spec": {"serviceAccountName": "coding"}},
        {"metadata": {"uid": "u2", "namespace": "kube-system", "name": "etcd",
                      "annotations": {"kubernetes.io/config.mirror": "h2"}}, "spec": {}}]}"#;

    #[test]
    fn a_pod_is_completed_by_its_uid_and_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pods.json");
        fs::write(&file, LIST).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let completed = |uid, namespace: &str, name: &str| {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            let mut pod = Pod { namespace, name, ..Pod::default() };
            complete(&file, uid, &mut pod).unwrap();
            (pod.labels, pod.service_account)
        };
        let labels = BTreeMap::from([("app".to_owned(), "coding".to_owned())]);
        assert_eq!(
            completed("u1", "agents", "coding-1"),
            (Some(labels), Some("coding".to_owned()))
        );
        let static_pod = completed("h2", "kube-system", "etcd");
        assert_eq!(static_pod, (Some(BTreeMap::new()), Some("default".to_owned())));
        // Of another one that has its uid, or of one that is not there, nothing is known.
        assert_eq!(completed("u1", "others", "coding-1"), (None, None));
        assert_eq!(completed("u3", "agents", "coding-1"), (None, None));
    }

    #[test]
    fn a_list_that_others_may_write_or_that_is_none_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pods.json");
        fs::write(&file, LIST).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        complete(&file, "u1", &mut Pod::default()).unwrap_err();
        fs::write(&file, "{}").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = complete(&file, "u1", &mut Pod::default()).unwrap_err();
        assert!(refused.to_string().contains("`items`"), "{refused}");
    }
}
