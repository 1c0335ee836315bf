//! What the container runtimes of this host keep on disk of the containers that they run. It is there before the
//! container's first instruction, only root writes it, and nobody has to be asked who may not answer.

mod docker;
mod oci;
mod pods;
mod storage;
mod trees;

use std::{io, path::PathBuf, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

use self::oci::Bundle;
use super::config::Containers;
use crate::identity::{Container, ContainerId, Identity};

/// How long it may take to find out what a container is: its files are few and small, and who is in its cgroup
/// waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Finds out what the container is that a workload lies in. `None` where it lies in none.
///
/// # Errors
/// It could not be found out; why.
pub async fn look_up(
    places: &Containers,
    identity: &Identity<'_>,
) -> Result<Option<Container>, String> {
    let Some(ContainerId { id, .. }) = identity.container else { return Ok(None) };
    let asked = Asked {
        id: id.to_owned(),
        cgroup: identity.cgroup.to_owned(),
        pod: identity.pod.map(|uid| uid.replace('_', "-")),
    };
    let places = places.clone();
    let answer = timeout(PATIENCE, spawn_blocking(move || asked.answer(&places))).await;
    match answer {
        Ok(Ok(found)) => found.map(Some).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("its runtime's files could not be read within {PATIENCE:?}")),
    }
}

/// Which container is asked for.
struct Asked {
    id: String,
    cgroup: String,
    /// The uid of the pod that it is in, by its cgroup.
    pod: Option<String>,
}

impl Asked {
    fn answer(&self, places: &Containers) -> io::Result<Container> {
        let Some(found) = Bundle::find(places, &self.id)? else {
            return Err(io::Error::other(format!(
                "no runtime's files have it; they are looked for in {}, as `containers` in the daemon's configuration says",
                shown(&places.all())
            )));
        };
        if !found.lies_at(&self.cgroup, &self.id) {
            return Err(io::Error::other(format!(
                "its runtime has it in another cgroup ({})",
                found.cgroup()
            )));
        }
        let mut container = found.container(places, &self.id)?;
        if let Some(uid) = &self.pod {
            let Some(pod) = &mut container.pod else {
                return Err(io::Error::other("its runtime does not say of which pod it is"));
            };
            pod.uid = Some(uid.clone());
            if let Some(list) = &places.pods {
                pods::complete(list, uid, pod)?;
            }
        }
        Ok(container)
    }
}

fn shown(paths: &[&PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
