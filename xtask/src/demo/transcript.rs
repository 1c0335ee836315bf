//! What the workload says it experienced.

/// One step, as the workload tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub name: String,
    pub pid: u32,
    /// Its exit status as a shell has it; `None` where the workload did not come so far.
    pub status: Option<u8>,
    /// The lines that it printed.
    pub said: Vec<String>,
}

/// The steps in what the workload printed, in order.
pub fn parse(output: &str) -> Vec<Ran> {
    let mut steps: Vec<Ran> = Vec::new();
    for line in output.lines() {
        if let Some((name, pid)) = marked(line, "== ") {
            steps.push(Ran { name: name.to_owned(), pid, status: None, said: Vec::new() });
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        match marked(line, "-- ") {
            Some((name, status)) if name == step.name => step.status = u8::try_from(status).ok(),
            _ => step.said.push(line.to_owned()),
        }
    }
    steps
}

/// The name and the number in `MARK NAME NUMBER`.
fn marked<'a>(line: &'a str, mark: &str) -> Option<(&'a str, u32)> {
    let (name, number) = line.strip_prefix(mark)?.split_once(' ')?;
    Some((name, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_process_its_words_and_its_end() {
        let steps = parse("noise\n== a 10\nhello\n-- a 0\n== b 11\nKilled\n-- b 137\n== c 12\n");
        let ran = |name: &str, pid, status, said: &[&str]| Ran {
            name: name.to_owned(),
            pid,
            status,
            said: said.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            steps,
            [
                ran("a", 10, Some(0), &["hello"]),
                ran("b", 11, Some(137), &["Killed"]),
                ran("c", 12, None, &[]),
            ]
        );
    }

    #[test]
    fn what_looks_like_another_steps_end_is_only_said() {
        let steps = parse("== a 10\n-- b 0\n-- a 1\n");
        assert_eq!(steps.first().and_then(|step| step.status), Some(1));
    }
}
