//! Signs of life: to systemd, and to whoever asks `/livez`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sd_notify::NotifyState;

use crate::clock;

/// How long the daemon may give no sign: taking the next workload in, or the next turn, is due long before.
pub const MAX_SILENCE: Duration = Duration::from_secs(60);

/// When the last one was given, on the boot clock in nanoseconds.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Tells that the daemon gets on, and that it may take longer to start.
pub fn alive() {
    LAST.store(clock::boot_ns(), Ordering::Relaxed);
    let longer = u32::try_from(MAX_SILENCE.as_micros()).unwrap_or(u32::MAX);
    tell_manager(&[NotifyState::Watchdog, NotifyState::ExtendTimeoutUsec(longer)]);
}

/// How long ago that was.
pub fn silent_for() -> Duration {
    Duration::from_nanos(clock::boot_ns().saturating_sub(LAST.load(Ordering::Relaxed)))
}

/// What systemd wants to be told when files are read anew; `Ready` ends it.
pub fn reload_begins() -> Vec<NotifyState<'static>> {
    // The clock is there, and without its word systemd takes the reload for done at `Ready`.
    let now = NotifyState::monotonic_usec_now().ok();
    [NotifyState::Reloading].into_iter().chain(now).collect()
}

/// Says something to systemd, where that started the daemon.
pub fn tell_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd was not told: {error}");
    }
}
