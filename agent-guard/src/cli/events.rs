//! `agent-guard events`

use std::{
    io::{IsTerminal as _, stdout},
    path::PathBuf,
    process::ExitCode,
};

use agent_guard_common::event::Outcome;
use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use super::{Failure, control, done, output, recordings};
use crate::{
    daemon::config::SOCKET,
    event::{EventClass, EventFilter, Record, Skipped, TextLine, decode},
    policy::{NamePattern, PathPattern, Target},
};

/// Follow the daemon's events, or show those of files
///
/// Options of one kind are alternatives, options of several kinds have to fit together.
#[derive(Args, Clone, Debug)]
pub struct EventArgs {
    /// The daemon's control socket
    #[arg(long, value_name = "SOCKET", default_value = SOCKET)]
    socket: PathBuf,

    /// Also what was allowed; the daemon has to have a sink with `events = "all"`
    #[arg(long, conflicts_with = "from")]
    all: bool,

    /// Show the events of this file, `-` for stdin, and follow nothing; may be repeated
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,

    /// How events are written
    #[arg(short, long, value_enum, default_value_t = Format::Json)]
    output: Format,

    /// Only of this agent, in whose name `*` is any run of characters
    #[arg(long, value_name = "NAME", value_parser = agent)]
    agent: Vec<NamePattern>,

    /// Only what the policy denied, carried out or not
    #[arg(long, conflicts_with = "outcome")]
    denied: bool,

    /// Only what came to this
    #[arg(long, value_enum, value_delimiter = ',')]
    outcome: Vec<OutcomeArg>,

    /// Only of this class
    #[arg(long, value_enum, value_delimiter = ',')]
    class: Vec<EventClass>,

    /// Only what this rule decided
    #[arg(long, value_name = "NAME")]
    rule: Vec<String>,

    /// Only about files, programs and UNIX-domain sockets at this path pattern
    #[arg(long, value_name = "PATTERN", value_parser = path)]
    path: Vec<PathPattern>,

    /// Only about connections to this target, as a rule's `to` has it, and queries for its name
    #[arg(long, value_name = "TARGET", value_parser = target)]
    to: Vec<Targets>,

    /// Only from then on: a time (2026-11-21T05:00:00Z), or how long ago (90s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,

    /// Only up to then
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line each, for people
    Table,
    /// The lines of OCSF JSON as they are
    Json,
}

/// What came of an action.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OutcomeArg {
    Allowed,
    Denied,
    Killed,
    Observed,
}

/// What one target stands for.
type Targets = Vec<Target>;

fn agent(text: &str) -> Result<NamePattern, String> {
    match NamePattern::parse(text) {
        Some(Ok(pattern)) => Ok(pattern),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("a name has one character at least, and no `/`".to_owned()),
    }
}

fn path(text: &str) -> Result<PathPattern, String> {
    PathPattern::parse(text).map_err(|error| error.to_string())
}

fn target(text: &str) -> Result<Targets, String> {
    Target::parse(text).map_err(|error| error.to_string())
}

fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago: SignedDuration = text.parse().map_err(|_| {
        "a time is written 2026-11-21T05:00:00Z, with its offset from UTC, or as how long ago: 90s, 10m, 2h"
            .to_owned()
    })?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

/// Shows events until there are no more.
pub fn run(args: &EventArgs) -> Result<ExitCode, Failure> {
    let show = Show::new(args);
    done(if args.from.is_empty() {
        show.follow(args)
    } else {
        recordings::read(&args.from, |entry| show.record(&entry.record, entry.line))
    })
}

impl EventArgs {
    fn filter(&self) -> EventFilter {
        let nanoseconds = |time: Timestamp| u64::try_from(time.as_nanosecond()).unwrap_or_default();
        let outcomes = match self.denied {
            true => vec![Outcome::Denied, Outcome::Killed, Outcome::Observed],
            false => self.outcome.iter().map(|outcome| Outcome::from(*outcome)).collect(),
        };
        EventFilter {
            agents: self.agent.clone(),
            outcomes,
            classes: self.class.clone(),
            rules: self.rule.clone(),
            paths: self.path.clone(),
            targets: self.to.iter().flatten().cloned().collect(),
            since_ns: self.since.map(nanoseconds),
            until_ns: self.until.map(nanoseconds),
        }
    }
}

impl From<OutcomeArg> for Outcome {
    fn from(outcome: OutcomeArg) -> Self {
        match outcome {
            OutcomeArg::Allowed => Self::Allowed,
            OutcomeArg::Denied => Self::Denied,
            OutcomeArg::Killed => Self::Killed,
            OutcomeArg::Observed => Self::Observed,
        }
    }
}

struct Show {
    filter: EventFilter,
    format: Format,
    colour: bool,
}

impl Show {
    fn new(args: &EventArgs) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = stdout().is_terminal() && !no_colour;
        Self { filter: args.filter(), format: args.output, colour }
    }

    /// Shows an event where it fits. False where nobody reads any more.
    fn record(&self, record: &Record, line: &[u8]) -> anyhow::Result<bool> {
        if !self.filter.fits(record) {
            return Ok(true);
        }
        match self.format {
            Format::Json if line.ends_with(b"\n") => output::write(line),
            Format::Json => output::write(&[line, b"\n"].concat()),
            Format::Table => output::write(self.text(record).as_bytes()),
        }
    }

    /// When, whose, and what: the last as `run` tells it.
    fn text(&self, record: &Record) -> String {
        let milliseconds = i64::try_from(record.time_ns / 1_000_000).unwrap_or(i64::MAX);
        let time = Timestamp::from_millisecond(milliseconds)
            .map_or_else(|_| "-".to_owned(), |time| format!("{time:.3}"));
        let told = TextLine { record, colour: self.colour }.to_string();
        let told = told.strip_prefix("agent-guard: ").unwrap_or(&told);
        format!("{time} {}: {told}\n", record.context.agent.name)
    }

    fn follow(&self, args: &EventArgs) -> anyhow::Result<()> {
        if self.filter.is_empty() && self.format == Format::Json {
            return control::follow(&args.socket, args.all, output::write).map(drop);
        }
        // What was allowed is asked for where it is to be shown.
        let all = args.all || self.filter.outcomes.contains(&Outcome::Allowed);
        let mut skipped = Skipped::default();
        let followed = control::follow(&args.socket, all, |line| match decode(line) {
            Ok(record) => self.record(&record, line),
            Err(error) => {
                skipped.count(&error);
                Ok(true)
            }
        });
        if skipped.total() > 0 {
            eprintln!("agent-guard: {skipped}");
        }
        followed.map(drop)
    }
}
