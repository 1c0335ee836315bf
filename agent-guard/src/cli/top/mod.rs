//! `agent-guard top`: what happens on this host, as it happens, over the control socket.

mod feed;
mod model;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::model::Model;
use crate::daemon::config::SOCKET;

/// Watch workloads, decisions, losses and denials, live
///
/// Keys: `s` the next order, `/` a filter by name, `p` or space pause, `q` quit.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// The daemon's control socket
    #[arg(long, value_name = "SOCKET", default_value = SOCKET)]
    socket: PathBuf,

    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// How long a key waits at most before it is seen to.
const KEYS: Duration = Duration::from_millis(100);

/// Shows it until `q` is pressed.
pub fn run(args: &TopArgs) -> anyhow::Result<()> {
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "`top` needs a terminal; `agent-guard status` and `agent-guard agents` print once"
    );
    let (sender, news) = mpsc::sync_channel(feed::MAX_NEWS);
    // The first look is here: who gets no answer is told so as by any other command.
    let first = feed::look(&args.socket)?;
    let mut model = Model::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    model.take(first);
    feed::start(args.socket.clone(), Duration::from_secs(args.interval), sender);
    let mut terminal = ratatui::try_init().context("setting the terminal up")?;
    let shown = show(&mut terminal, &mut model, &news);
    ratatui::try_restore().context("setting the terminal back")?;
    shown
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    news: &mpsc::Receiver<feed::News>,
) -> anyhow::Result<()> {
    while !model.has_quit() {
        news.try_iter().for_each(|news| model.take(news));
        terminal.draw(|frame| screen::draw(frame, model)).context("drawing")?;
        if event::poll(KEYS).context("reading keys")?
            && let Event::Key(key) = event::read().context("reading keys")?
            && key.kind == KeyEventKind::Press
        {
            model.press(key);
        }
    }
    Ok(())
}
