//! What the guard has to say beside the command that it runs. A thread of its own writes it: the command
//! shares the terminal and can hold it (`tcflow`), and the guard must go on meanwhile.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::Duration,
};

/// Lines that wait while nobody takes them: some hundred KiB.
const WAITING: usize = 1024;

/// How long the end waits for lines to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

enum Message {
    Line(String),
    /// Everything before has been written.
    Flush(Sender<()>),
}

static QUEUE: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Says `text` on a line of its own. In one write, so that what the command says there at the same time
/// does not get into it; and whoever closed stderr does not end the guard, as `eprintln!` would.
pub fn say(text: impl Display) {
    let line = format!("{text}\n");
    let Some(queue) = queue() else {
        let _ = io::stderr().write_all(line.as_bytes());
        return;
    };
    if let Err(TrySendError::Full(_)) = queue.try_send(Message::Line(line)) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until what was said is written, or nobody can be expected to take it any more.
pub fn flush() {
    let (done, is_done) = channel();
    if let Some(queue) = queue()
        && queue.try_send(Message::Flush(done)).is_ok()
    {
        let _ = is_done.recv_timeout(PATIENCE);
    }
}

/// `None` where no thread could be had.
fn queue() -> Option<&'static SyncSender<Message>> {
    let start = || {
        let (sender, receiver) = sync_channel(WAITING);
        let thread = thread::Builder::new().name("stderr".to_owned());
        thread.spawn(move || write(&receiver, &mut io::stderr(), &DROPPED)).ok().map(|_| sender)
    };
    QUEUE.get_or_init(start).as_ref()
}

fn write(messages: &Receiver<Message>, out: &mut impl Write, dropped: &AtomicU64) {
    for message in messages {
        match message {
            Message::Line(line) => {
                let _ = out.write_all(line.as_bytes());
            }
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
        let lines = dropped.swap(0, Ordering::Relaxed);
        if lines > 0 {
            let _ = out.write_all(
                format!("agent-guard: {lines} line(s) are left out here: nobody read\n").as_bytes(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_order_and_what_is_left_out_is_told() {
        let (sender, receiver) = sync_channel(4);
        let (done, is_done) = channel();
        for line in ["one\n", "two\n"] {
            sender.try_send(Message::Line(line.to_owned())).unwrap();
        }
        sender.try_send(Message::Flush(done)).unwrap();
        drop(sender);
        let mut out = Vec::new();
        write(&receiver, &mut out, &AtomicU64::new(7));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "one\nagent-guard: 7 line(s) are left out here: nobody read\ntwo\n"
        );
        is_done.try_recv().unwrap();
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up() {
        let (sender, _receiver) = sync_channel(WAITING);
        for _ in 0..WAITING {
            sender.try_send(Message::Line(String::new())).unwrap();
        }
        let beyond = sender.try_send(Message::Line(String::new()));
        assert!(matches!(beyond, Err(TrySendError::Full(_))));
    }
}
