//! The account of a run: for each step, what the kernel decided, as the events have it, and what
//! the agent saw. Where the two, or the policy, do not agree, that is a problem and told.

use std::{fmt::Write as _, path::Path};

use super::{
    events::{Decision, Object, Run},
    steps::{Step, Verdict},
    transcript::Ran,
};

/// How much of what the agent saw is shown, in characters.
const SAID: usize = 100;

/// What became of the steps.
pub struct Account<'a> {
    rows: Vec<Row<'a>>,
    pub problems: Vec<String>,
}

struct Row<'a> {
    step: &'a Step,
    decision: Option<&'a Decision>,
    ran: Option<&'a Ran>,
}

impl<'a> Account<'a> {
    /// Joins the `steps` with the events of their processes and the words of the workload.
    pub fn of(steps: &'a [Step], run: &'a Run, ran: &'a [Ran], scratch: &Path) -> Self {
        let mut problems = Vec::new();
        if run.mode != "enforce" {
            problems.push(format!("the mode is {}, which blocks nothing", run.mode));
        }
        if run.lossy {
            problems.push("events were lost: the account may have gaps".to_owned());
        }
        let rows: Vec<Row<'_>> = steps
            .iter()
            .map(|step| {
                let ran = ran.iter().find(|ran| ran.name == step.name);
                let of_step = run
                    .decisions
                    .iter()
                    .filter(|decided| ran.is_some_and(|ran| ran.pid == decided.pid));
                let mut of_target =
                    of_step.filter(|decided| step.target.is(&decided.object, scratch));
                // A call passes several hooks: one denial denies it.
                let first = of_target.next();
                let decision = match first {
                    Some(decided) if !decided.is_allowed() => Some(decided),
                    _ => of_target.find(|decided| !decided.is_allowed()).or(first),
                };
                Row { step, decision, ran }
            })
            .collect();
        for row in &rows {
            if let Err(problem) = row.check() {
                problems.push(format!("{}: {problem}", row.step.name));
            }
        }
        let told = |decided: &&Decision| rows.iter().any(|row| row.tells(decided, scratch));
        for stumbled in run.decisions.iter().filter(|decided| !decided.is_allowed()) {
            if !told(&stumbled) {
                problems.push(format!(
                    "the agent also met a denial that is none of its steps: {} ({})",
                    stumbled.object, stumbled.because
                ));
            }
        }
        Self { rows, problems }
    }

    /// The account as text, two lines a step.
    pub fn text(&self) -> String {
        let mut text =
            format!("{:>3}  {:<32} {:<8}  {}\n", "", "the agent tried to", "outcome", "by");
        for (index, row) in self.rows.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:>3}  {:<32} {:<8}  {}",
                index + 1,
                row.step.tries,
                row.outcome(),
                row.by()
            );
            let _ = writeln!(text, "       kernel: {}", row.judged());
            let _ = writeln!(text, "       agent:  {}", row.said());
        }
        text
    }

    /// How many steps were allowed and how many were blocked.
    pub fn counts(&self) -> (usize, usize) {
        let decided = || self.rows.iter().filter_map(|row| row.decision);
        let allowed = decided().filter(|decided| decided.is_allowed()).count();
        (allowed, decided().count() - allowed)
    }
}

impl Row<'_> {
    fn check(&self) -> Result<(), String> {
        let ran = self.ran.ok_or("the workload did not come to it")?;
        let decision = self.decision.ok_or("no event tells of it")?;
        let rule = decision.rule.as_ref().map(|rule| rule.name.as_str());
        let decided = Verdict { allowed: decision.is_allowed(), rule };
        if decided != self.step.expected {
            return Err(format!("{decided}; it should be {}", self.step.expected));
        }
        let worked = ran.status == Some(0);
        if worked != decided.allowed {
            let saw = if worked { "it worked" } else { "it failed" };
            return Err(format!("{decided}, and yet {saw} for the agent"));
        }
        Ok(())
    }

    /// True when `decided` is about this step's process and what the step is about.
    fn tells(&self, decided: &Decision, scratch: &Path) -> bool {
        self.ran.is_some_and(|ran| ran.pid == decided.pid)
            && self.step.target.is(&decided.object, scratch)
    }

    fn outcome(&self) -> &str {
        match self.decision.map(|decided| decided.outcome.as_str()) {
            Some("denied") => "REFUSED",
            Some("killed") => "KILLED",
            Some(other) => other,
            None => "?",
        }
    }

    fn by(&self) -> String {
        let Some(decision) = self.decision else { return "no event tells of it".to_owned() };
        match &decision.rule {
            Some(rule) => {
                let line = rule.line.map_or_else(String::new, |line| format!(", line {line}"));
                format!("rule {}{line}", rule.name)
            }
            None => format!("default ({})", decision.because),
        }
    }

    fn judged(&self) -> String {
        let Some(decision) = self.decision else { return "-".to_owned() };
        match (&decision.object, decision.access.as_slice()) {
            (object @ Object::File(_), access) => format!("{object} to {}", access.join(" and ")),
            (object, _) => object.to_string(),
        }
    }

    fn said(&self) -> String {
        let Some(ran) = self.ran else { return "-".to_owned() };
        let said = ran.said.last().map(String::as_str).unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(SAID).collect();
        let status = match ran.status {
            Some(status) => format!("exit {status}"),
            None => "no end".to_owned(),
        };
        if said.is_empty() { status } else { format!("{status}: {said}") }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            events::tests::{decided, notice},
            steps::{ENV_FILE, SERVER, Target},
            transcript,
        },
        *,
    };

    const SCRATCH: &str = "/tmp/x";

    fn step(name: &'static str, target: Target, allowed: bool, rule: Option<&'static str>) -> Step {
        Step { name, tries: name, target, expected: Verdict { allowed, rule } }
    }

    fn secret() -> Step {
        step("env", Target::Open(ENV_FILE), false, Some("secrets"))
    }

    fn file(path: &str) -> String {
        format!(r#""file":{{"name":"f","path":"{path}","type_id":0}}"#)
    }

    fn env(pid: u32, outcome: &str, rule: Option<&str>) -> String {
        decided(pid, &file("/tmp/x/workspace/.env"), outcome, rule)
    }

    /// The problems with, and the text of, the account of these events and words.
    fn account(steps: &[Step], events: &[String], said: &str) -> (Vec<String>, String) {
        let lines = [&[notice("the agent is under guard", "")], events].concat().join("\n");
        let run = Run::parse(&lines).unwrap();
        let ran = transcript::parse(said);
        let account = Account::of(steps, &run, &ran, Path::new(SCRATCH));
        let text = account.text();
        (account.problems, text)
    }

    #[test]
    fn a_step_that_ended_as_the_policy_says_is_told_with_its_rule_and_what_the_agent_saw() {
        let events = [
            decided(5, &file("/etc/ld.so.cache"), "allowed", Some("system")),
            env(5, "killed", Some("secrets")),
        ];
        let (problems, text) = account(&[secret()], &events, "== env 5\nKilled\n-- env 137\n");
        assert_eq!(problems, [""; 0]);
        for part in
            ["env", "KILLED", "rule secrets, line 31", "workspace/.env to read", "137: Killed"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_secret_that_was_allowed_is_a_problem_whatever_else_is_well() {
        let events = [env(5, "allowed", Some("workspace"))];
        let (problems, _) = account(&[secret()], &events, "== env 5\n-- env 0\n");
        assert_eq!(
            problems,
            ["env: allowed by rule workspace; it should be denied by rule secrets"]
        );
    }

    #[test]
    fn the_right_denial_by_the_wrong_rule_is_a_problem() {
        let events = [env(5, "denied", None)];
        let (problems, _) = account(&[secret()], &events, "== env 5\n-- env 1\n");
        assert_eq!(
            problems,
            ["env: denied because no rule matches; it should be denied by rule secrets"]
        );
    }

    #[test]
    fn a_denial_that_did_not_keep_the_agent_from_it_is_a_problem() {
        let events = [env(5, "denied", Some("secrets"))];
        let (problems, _) = account(&[secret()], &events, "== env 5\n-- env 0\n");
        assert_eq!(problems, ["env: denied by rule secrets, and yet it worked for the agent"]);
    }

    #[test]
    fn a_step_without_event_or_without_end_is_a_problem() {
        let (problems, text) = account(&[secret()], &[], "== env 5\n-- env 1\n");
        assert_eq!(problems, ["env: no event tells of it"]);
        assert!(text.contains('?'), "{text}");
        let (problems, _) = account(&[secret()], &[], "");
        assert_eq!(problems, ["env: the workload did not come to it"]);
    }

    #[test]
    fn another_processs_event_says_nothing_about_a_step() {
        let events = [env(6, "denied", Some("secrets"))];
        let (problems, _) = account(&[secret()], &events, "== env 5\n-- env 1\n");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(problems.first().unwrap(), "env: no event tells of it");
    }

    #[test]
    fn one_denial_among_the_hooks_of_a_call_denies_it() {
        let events = [
            env(5, "allowed", Some("workspace")),
            env(5, "denied", Some("secrets")),
            env(5, "allowed", Some("workspace")),
        ];
        let (problems, text) = account(&[secret()], &events, "== env 5\n-- env 1\n");
        assert_eq!(problems, [""; 0]);
        assert!(text.contains("REFUSED"), "{text}");
    }

    #[test]
    fn a_denial_that_belongs_to_no_step_is_a_problem() {
        let fetch = step("fetch", Target::Connect(SERVER), true, Some("dev-server"));
        let events = [
            decided(
                5,
                r#""dst_endpoint":{"ip":"127.0.0.1","port":8080}"#,
                "allowed",
                Some("dev-server"),
            ),
            decided(5, &file("/opt/locale"), "denied", None),
        ];
        let (problems, _) = account(&[fetch], &events, "== fetch 5\nhello\n-- fetch 0\n");
        assert_eq!(
            problems,
            ["the agent also met a denial that is none of its steps: open /opt/locale (a reason)"]
        );
    }

    #[test]
    fn what_the_agent_said_is_shown_bounded_and_without_control_characters() {
        let long = "y".repeat(10 * SAID);
        let events = [env(5, "denied", Some("secrets"))];
        let said = format!("== env 5\n\u{1b}[2J{long}\n-- env 1\n");
        let (_, text) = account(&[secret()], &events, &said);
        assert!(!text.contains('\u{1b}'));
        assert_eq!(text.matches('y').count() - text.matches("by").count(), SAID - "[2J".len());
    }
}
