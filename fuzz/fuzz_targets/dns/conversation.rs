//! What the bytes of an input stand for: questions, and what the name server answers to each.

/// Steps of a conversation: more than a wildcard lets new names out.
const MAX_STEPS: usize = 80;

/// Names that questions are made for, with a label of the input's in front.
const SUFFIXES: [&str; 5] =
    ["api.example", "wild.example", "bad.wild.example", "example", "deep.wild.example"];

/// Types of record that questions are made for: A, AAAA, HTTPS, TXT.
const KINDS: [u16; 4] = [1, 28, 65, 16];

/// A question, and what the name server answers while it is judged.
pub struct Step {
    pub tcp: bool,
    pub query: Vec<u8>,
    pub answer: Answer,
}

/// What a name server answers.
#[derive(Clone, Default)]
pub struct Answer {
    /// The bytes are all of it but the id, rather than its records.
    pub raw: bool,
    /// Over UDP it is told not to fit.
    pub truncated: bool,
    /// How many records it says to have.
    pub records: u8,
    /// Its code.
    pub code: u8,
    pub bytes: Vec<u8>,
}

impl Step {
    /// Whether it is no question, so that nobody is answered.
    pub fn is_noise(&self) -> bool {
        self.query.len() < 12 || self.query[2] & 0x80 != 0
    }
}

/// The steps that `bytes` stand for; where they end early, zeros follow.
pub fn steps(bytes: &[u8]) -> Vec<Step> {
    let mut input = Input(bytes);
    let mut steps = Vec::new();
    while !input.0.is_empty() && steps.len() < MAX_STEPS {
        steps.push(step(&mut input));
    }
    steps
}

fn step(input: &mut Input) -> Step {
    let flags = input.byte();
    let text = input.text();
    let query = if flags & 2 != 0 {
        text.to_vec()
    } else {
        let suffix = SUFFIXES[usize::from(input.byte()) % SUFFIXES.len()];
        question(text, suffix, KINDS[usize::from(flags >> 2 & 3)], flags & 0x10 != 0)
    };
    let (how, code) = (input.byte(), input.byte() & 0xf);
    let answer = Answer {
        raw: how & 1 != 0,
        truncated: how & 2 != 0,
        records: how >> 2,
        code,
        bytes: input.text().to_vec(),
    };
    Step { tcp: flags & 1 != 0, query, answer }
}

fn question(label: &[u8], suffix: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    let label = &label[..label.len().min(63)];
    let labels = [label].into_iter().chain(suffix.split('.').map(str::as_bytes));
    for label in labels.filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.extend([0, (kind >> 8) as u8, kind as u8, 0, 1]);
    if edns {
        bytes.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    }
    bytes
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A length, and as many bytes or those that are left.
    fn text(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        text
    }
}
