//! How full the maps are, counted on a thread beside the daemon and no more often than is of use.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

use super::view::Fill;
use crate::kernel::{fill, pins::Pins};

/// How long a count is good for. With full maps one takes a second of a processor.
const FRESH: Duration = Duration::from_secs(15);

/// Counts of the maps' entries.
#[derive(Clone)]
pub struct Fills {
    /// Where the maps are; `None` where there are none.
    pins: Option<Pins>,
    last: Arc<Mutex<Option<Count>>>,
}

/// A count, and when it was made.
type Count = (Instant, Vec<Fill>);

impl Fills {
    /// Of the maps that are pinned.
    pub fn new(pins: Pins) -> Self {
        Self { pins: Some(pins), last: Arc::default() }
    }

    /// Of no maps: nobody is guarded.
    pub fn none() -> Self {
        Self { pins: None, last: Arc::default() }
    }

    /// The last count; a new one where that is old. Whoever asks meanwhile waits for the same one.
    pub async fn now(&self) -> Vec<Fill> {
        let Some(pins) = self.pins.clone() else { return Vec::new() };
        let mut last = self.last.lock().await;
        if let Some((counted, fills)) = last.as_ref()
            && counted.elapsed() < FRESH
        {
            return fills.clone();
        }
        let fills = match spawn_blocking(move || fill::maps(&pins)).await {
            Ok(Ok(fills)) => fills,
            Ok(Err(error)) => {
                tracing::warn!("{error:#}");
                Vec::new()
            }
            Err(error) => {
                tracing::warn!("counting the entries of the maps: {error}");
                Vec::new()
            }
        };
        *last = Some((Instant::now(), fills.clone()));
        fills
    }
}
