//! What `top` shows: the last look, what changed since the one before, and what the keys have asked for.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::News;
use crate::daemon::view::{Agent, Status};

/// Denials that are kept: more than a screen shows.
const MAX_DENIALS: usize = 100;

/// Letters of a filter: longer than any name.
const MAX_FILTER: usize = 64;

/// A workload and how much it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// As the daemon shows it.
    pub agent: Agent,
    /// Decisions a second.
    pub decided: f64,
    /// Denials a second.
    pub denied: f64,
}

/// What stands first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Most denials a second.
    Denied,
    /// Most decisions a second.
    Decided,
    /// Most lost.
    Lost,
    /// By name.
    Name,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Denied => Self::Decided,
            Self::Decided => Self::Lost,
            Self::Lost => Self::Name,
            Self::Name => Self::Denied,
        }
    }
}

/// All of it.
pub struct Model {
    /// The daemon at the last look.
    pub status: Status,
    /// The workloads, as they were found.
    rows: Vec<Row>,
    /// The last denials, the newest first.
    pub denials: VecDeque<String>,
    /// Denials that were not told, because they came too fast.
    pub missed: u64,
    /// Why there was no look.
    pub gone: Option<String>,
    /// What stands first.
    pub order: Order,
    /// What names have to hold.
    pub filter: String,
    /// Whether letters go to the filter.
    pub is_typing: bool,
    /// Whether nothing moves.
    pub is_paused: bool,
    /// Whether colours are wanted.
    pub has_colour: bool,
    at: Option<Instant>,
    quit: bool,
}

impl Model {
    /// Nothing yet.
    pub fn new(has_colour: bool) -> Self {
        Self {
            status: Status::default(),
            rows: Vec::new(),
            denials: VecDeque::new(),
            missed: 0,
            gone: None,
            order: Order::Denied,
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            has_colour,
            at: None,
            quit: false,
        }
    }

    /// Whether it is enough.
    pub fn has_quit(&self) -> bool {
        self.quit
    }

    /// Takes news, unless it is paused: then they are past.
    pub fn take(&mut self, news: News) {
        if self.is_paused {
            return;
        }
        match news {
            News::Look { at, status, agents } => {
                self.look(at, agents);
                self.status = *status;
                self.gone = None;
            }
            News::Denial(line) => {
                self.denials.truncate(MAX_DENIALS - 1);
                self.denials.push_front(line);
            }
            News::Missed(count) => self.missed = self.missed.saturating_add(count),
            News::Gone(why) => self.gone = Some(why),
        }
    }

    fn look(&mut self, at: Instant, agents: Vec<Agent>) {
        let since = self.at.map_or(Duration::ZERO, |before| at.saturating_duration_since(before));
        let key = |agent: &Agent| (agent.cgroup.clone(), agent.id);
        let before: HashMap<_, _> =
            self.rows.iter().map(|row| (key(&row.agent), row.agent.clone())).collect();
        let row = |agent: Agent| {
            let rate = |of: fn(&Agent) -> u64| match before.get(&key(&agent)) {
                Some(before) if !since.is_zero() => {
                    of(&agent).saturating_sub(of(before)) as f64 / since.as_secs_f64()
                }
                _ => 0.0,
            };
            let (decided, denied) = (rate(|agent| agent.decided), rate(|agent| agent.denied));
            Row { agent, decided, denied }
        };
        self.rows = agents.into_iter().map(row).collect();
        self.at = Some(at);
    }

    /// The workloads that the filter lets through, in order.
    pub fn rows(&self) -> Vec<&Row> {
        let fits = |row: &&Row| {
            let Agent { name, cgroup, .. } = &row.agent;
            [name, cgroup].iter().any(|text| text.contains(&self.filter))
        };
        let mut rows: Vec<&Row> = self.rows.iter().filter(fits).collect();
        // Those that are equal stay in the order of their cgroups.
        match self.order {
            Order::Denied => rows.sort_by(|a, b| b.denied.total_cmp(&a.denied)),
            Order::Decided => rows.sort_by(|a, b| b.decided.total_cmp(&a.decided)),
            Order::Lost => rows.sort_by_key(|row| Reverse(row.agent.lost)),
            Order::Name => rows.sort_by(|a, b| a.agent.name.cmp(&b.agent.name)),
        }
        rows
    }

    /// Decisions and denials a second, of all workloads.
    pub fn rates(&self) -> (f64, f64) {
        let sum = |of: fn(&Row) -> f64| self.rows.iter().map(of).sum();
        (sum(|row| row.decided), sum(|row| row.denied))
    }

    /// Does what a key asks for.
    pub fn press(&mut self, key: KeyEvent) {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, self.is_typing) {
            (KeyCode::Char('c'), _) if is_control => self.quit = true,
            (KeyCode::Enter, true) => self.is_typing = false,
            (KeyCode::Esc, _) => {
                self.is_typing = false;
                self.filter.clear();
            }
            (KeyCode::Backspace, true) => drop(self.filter.pop()),
            (KeyCode::Char(letter), true) if self.filter.chars().count() < MAX_FILTER => {
                self.filter.push(letter);
            }
            (KeyCode::Char('/'), false) => self.is_typing = true,
            (KeyCode::Char('s'), false) => self.order = self.order.next(),
            (KeyCode::Char('p' | ' '), false) => self.is_paused = !self.is_paused,
            (KeyCode::Char('q'), false) => self.quit = true,
            _ => {}
        }
    }
}
