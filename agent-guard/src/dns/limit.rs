//! How much an agent may ask. Names under a wildcard are a way out for data: whoever runs the zone reads
//! every name that is asked for in it.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// Queries of an agent a minute, answers from the cache included, and at once. Programs that resolve a
/// name for every connection stay far below.
const QUERIES: Rate = Rate { burst: 1_000, per_minute: 3_000 };

/// Names a minute, and at once, under one wildcard that were not asked for lately.
const NEW_NAMES: Rate = Rate { burst: 30, per_minute: 30 };

/// Names under one wildcard that count as known.
const KNOWN_NAMES: usize = 256;

/// Whether something may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Yes,
    /// No, and nobody has been told since it last was allowed.
    NoTell,
    /// No, and that is known.
    NoTold,
}

#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    per_minute: u32,
}

/// The limits of one agent.
pub struct Limits {
    queries: Bucket,
    wildcards: HashMap<String, Wildcard>,
}

struct Wildcard {
    new_names: Bucket,
    known: VecDeque<String>,
}

impl Limits {
    pub fn new(now: Instant) -> Self {
        Self { queries: Bucket::new(QUERIES, now), wildcards: HashMap::new() }
    }

    /// Counts a query.
    pub fn query(&mut self, now: Instant) -> Pass {
        self.queries.take(now)
    }

    /// Counts a name under `wildcard`, which is a pattern of the policy.
    pub fn name(&mut self, wildcard: &str, name: &str, now: Instant) -> Pass {
        let limits = self.wildcards.entry(wildcard.to_owned()).or_insert_with(|| Wildcard {
            new_names: Bucket::new(NEW_NAMES, now),
            known: VecDeque::new(),
        });
        if limits.known.iter().any(|known| known == name) {
            return Pass::Yes;
        }
        let pass = limits.new_names.take(now);
        if pass == Pass::Yes {
            if limits.known.len() == KNOWN_NAMES {
                limits.known.pop_front();
            }
            limits.known.push_back(name.to_owned());
        }
        pass
    }
}

/// A token bucket.
struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
    told: bool,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.burst), filled: now, told: false }
    }

    fn take(&mut self, now: Instant) -> Pass {
        let passed = now.saturating_duration_since(self.filled);
        let minutes = passed.as_secs_f64() / Duration::from_secs(60).as_secs_f64();
        self.tokens = (self.tokens + minutes * f64::from(self.rate.per_minute))
            .min(f64::from(self.rate.burst));
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            self.told = false;
            return Pass::Yes;
        }
        if std::mem::replace(&mut self.told, true) { Pass::NoTold } else { Pass::NoTell }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_off_told_once_and_recovers() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        for number in 0..NEW_NAMES.burst {
            assert_eq!(limits.name("*.a", &format!("{number}.a"), start), Pass::Yes);
        }
        assert_eq!(limits.name("*.a", "x.a", start), Pass::NoTell);
        assert_eq!(limits.name("*.a", "y.a", start), Pass::NoTold);
        // What is known, and what is under another wildcard, is not concerned.
        assert_eq!(limits.name("*.a", "0.a", start), Pass::Yes);
        assert_eq!(limits.name("*.b", "x.b", start), Pass::Yes);
        let later = start + Duration::from_secs(3);
        assert_eq!(limits.name("*.a", "x.a", later), Pass::Yes);
        assert_eq!(limits.name("*.a", "z.a", later), Pass::NoTell);
    }

    #[test]
    fn names_that_were_not_asked_for_lately_are_new_again() {
        let mut now = Instant::now();
        let mut limits = Limits::new(now);
        for number in 0..=KNOWN_NAMES {
            now += Duration::from_secs(60);
            assert_eq!(limits.name("*.a", &format!("{number}.a"), now), Pass::Yes);
        }
        let known = limits.wildcards.get("*.a").unwrap();
        assert_eq!(
            (known.known.len(), known.known.front().unwrap().as_str()),
            (KNOWN_NAMES, "1.a")
        );
    }

    #[test]
    fn queries_are_bounded_too() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let passed = (0..QUERIES.burst + 5).filter(|_| limits.query(start) == Pass::Yes).count();
        assert_eq!(passed, QUERIES.burst as usize);
    }
}
