//! The answers to commands that were done.

use prost::bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

type Id = [u8; 16];

/// What is known of a command that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing. It counts as running from now on, and must be [ended](Remembered::end).
    New,
    /// It is being done.
    Running,
    /// It was done, and this is the answer.
    Done(Bytes),
    /// Nothing, and there is no room to remember its answer. It must not be done.
    NoRoom,
}

/// Remembers a bounded number of answers.
pub(super) struct Remembered {
    most: usize,
    most_bytes: usize,
    /// An answer that is younger is never forgotten, because copies of its command may still come.
    needed: Duration,
    /// An answer that is older is forgotten.
    life: Duration,
    /// `None`: the command is being done.
    answers: HashMap<Id, Option<Bytes>>,
    /// The bytes of all answers.
    bytes: usize,
    /// The answers by the time when they were given.
    ended: VecDeque<(Instant, Id)>,
}

impl Remembered {
    pub(super) fn new(most: usize, most_bytes: usize, needed: Duration, life: Duration) -> Self {
        Self {
            most,
            most_bytes,
            needed,
            life,
            answers: HashMap::new(),
            bytes: 0,
            ended: VecDeque::new(),
        }
    }

    /// A command has come.
    pub(super) fn begin(&mut self, id: Id) -> Known {
        self.forget();
        match self.answers.get(&id) {
            Some(Some(answer)) => Known::Done(answer.clone()),
            Some(None) => Known::Running,
            None if self.answers.len() >= self.most || self.bytes >= self.most_bytes => {
                Known::NoRoom
            }
            None => {
                self.answers.insert(id, None);
                Known::New
            }
        }
    }

    /// A running command was done. `None`: it was given up, so the next copy begins it again.
    pub(super) fn end(&mut self, id: Id, answer: Option<Bytes>) {
        match answer {
            Some(answer) => {
                self.bytes += answer.len();
                self.answers.insert(id, Some(answer));
                self.ended.push_back((Instant::now(), id));
            }
            None => drop(self.answers.remove(&id)),
        }
    }

    fn forget(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.ended.front().copied() {
            let is_full = self.answers.len() >= self.most || self.bytes >= self.most_bytes;
            let life = if is_full { self.needed } else { self.life };
            if now.duration_since(at) <= life {
                return;
            }
            self.ended.pop_front();
            if let Some(Some(answer)) = self.answers.remove(&id) {
                self.bytes -= answer.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const NEEDED: Duration = Duration::from_secs(10);
    const LIFE: Duration = Duration::from_secs(60);

    fn id(number: u8) -> Id {
        [number; 16]
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_again_until_its_time_is_over() {
        let mut remembered = Remembered::new(10, 100, NEEDED, LIFE);
        assert_eq!(remembered.begin(id(1)), Known::New);
        assert_eq!(remembered.begin(id(1)), Known::Running);
        remembered.end(id(1), Some("done".into()));
        advance(LIFE).await;
        assert_eq!(remembered.begin(id(1)), Known::Done("done".into()));
        advance(Duration::from_millis(1)).await;
        assert_eq!(remembered.begin(id(1)), Known::New);
        remembered.end(id(1), None);
        assert_eq!(remembered.begin(id(1)), Known::New, "it was given up");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_refused_until_an_answer_is_not_needed_any_more() {
        for (most, most_bytes) in [(2, 100), (10, 8)] {
            let mut remembered = Remembered::new(most, most_bytes, NEEDED, LIFE);
            for number in 1..=2 {
                assert_eq!(remembered.begin(id(number)), Known::New);
                remembered.end(id(number), Some("done".into()));
                advance(Duration::from_secs(1)).await;
            }
            assert_eq!(remembered.begin(id(3)), Known::NoRoom);
            assert_eq!(remembered.begin(id(1)), Known::Done("done".into()));
            advance(NEEDED - Duration::from_secs(1)).await;
            assert_eq!(remembered.begin(id(3)), Known::New);
            assert_eq!(remembered.begin(id(2)), Known::Done("done".into()));
        }
    }
}
