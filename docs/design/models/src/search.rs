//! A small explicit-state checker. It searches breadth first, so the first violation that it finds is a shortest one.
//!
//! Steps come in two kinds. [`Kind::Chance`] is what the world may do: a client closes, a process dies, a slot loses
//! writes. It may happen or not. [`Kind::Duty`] is what the system does if it is left alone: a command in flight arrives, a
//! lease is renewed, a reaper goes on. A state in which no duty changes anything is *at rest*.
//!
//! Three things are checked:
//! 1. `always` holds in every reachable state.
//! 2. `at_rest` holds in every reachable state that is at rest.
//! 3. From every reachable state, duties alone can lead to a state at rest: no repair goes on for ever.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Who decides that a step is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The world: it may happen.
    Chance,
    /// The system: it happens if nothing else does.
    Duty,
}

/// Steps that are possible in a state, with the states that they lead to.
pub(crate) type Steps<M> = Vec<(Kind, <M as Model>::Step, <M as Model>::State)>;

/// What is searched.
pub(crate) trait Model {
    /// Everything that the future depends on.
    type State: Clone + Eq + Hash + Debug;
    /// What a trace shows.
    type Step: Copy + Debug;

    /// Where every history begins.
    fn init(&self) -> Self::State;

    /// Adds all steps that are possible. Those that change nothing are ignored.
    fn steps(&self, state: &Self::State, out: &mut Steps<Self>)
    where
        Self: Sized;

    /// What must never be broken.
    fn always(&self, state: &Self::State) -> Result<(), &'static str>;

    /// What must hold when the system has nothing left to do.
    fn at_rest(&self, state: &Self::State) -> Result<(), &'static str>;
}

/// What a search has found.
#[derive(Debug)]
pub struct Report {
    /// Different states that were reached.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// Steps of the longest of the shortest histories.
    pub depth: usize,
    /// States at rest.
    pub at_rest: usize,
    /// False if the search ended at its limit, so that finding no violation proves nothing.
    pub complete: bool,
    /// The first violation.
    pub violation: Option<Violation>,
}

/// A promise that is broken, and how.
#[derive(Debug)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// A shortest history that leads to it: one step a line, and the last state.
    pub trace: Vec<String>,
}

/// Mixes what is written by folded multiplications. It is much faster than the standard hasher, and nobody chooses states
/// to make it collide.
#[derive(Default)]
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, value: u64) {
        let product = u128::from(self.0.rotate_left(23) ^ value ^ 0x9e37_79b9_7f4a_7c15)
            * 0xd6e8_feb8_6659_fd93_a076_1d64_u128;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut mixer = Mixer::default();
    state.hash(&mut mixer);
    mixer.mix(0);
    mixer.finish()
}

/// Searches until it finds a violation, or has seen everything, or more states than `limit`.
pub(crate) fn search<M: Model>(model: &M, limit: usize) -> Report {
    let mut seen: HashMap<u64, u32, BuildHasherDefault<Fingerprint>> = HashMap::default();
    let mut parent: Vec<(u32, u16)> = vec![(0, 0)];
    let mut duties: Vec<(u32, u32)> = Vec::new(); // to, from
    let mut rest: Vec<u32> = Vec::new();
    let mut queue = VecDeque::from([(0u32, 0usize, model.init())]);
    seen.insert(fingerprint(&model.init()), 0);
    let (mut steps, mut depth, mut complete) = (0, 0, true);
    let mut out = Vec::new();
    let mut found = None;

    while let Some((id, level, state)) = queue.pop_front() {
        depth = level;
        if let Err(what) = model.always(&state) {
            found = Some((what.to_owned(), id));
            break;
        }
        out.clear();
        model.steps(&state, &mut out);
        let mut is_resting = true;
        for (n, (kind, _, next)) in out.drain(..).enumerate() {
            if next == state {
                continue;
            }
            steps += 1;
            is_resting &= kind == Kind::Chance;
            let fresh = parent.len() as u32;
            let to = *seen.entry(fingerprint(&next)).or_insert(fresh);
            if to == fresh {
                parent.push((id, n as u16));
                queue.push_back((fresh, level + 1, next));
            }
            if kind == Kind::Duty {
                duties.push((to, id));
            }
        }
        if is_resting {
            rest.push(id);
            if let Err(what) = model.at_rest(&state) {
                found = Some((format!("at rest: {what}"), id));
                break;
            }
        }
        if parent.len() > limit {
            complete = false;
            break;
        }
    }
    if found.is_none() && complete {
        let endless = never_rests(parent.len(), &mut duties, &rest);
        found = endless.map(|id| ("it never comes to rest".to_owned(), id));
    }
    let violation = found.map(|(what, id)| Violation {
        what,
        trace: trace(model, &parent, id),
    });
    Report {
        states: parent.len(),
        steps,
        depth,
        at_rest: rest.len(),
        complete,
        violation,
    }
}

/// Follows duties backwards from the states at rest. What is not reached can only run in circles.
fn never_rests(states: usize, duties: &mut [(u32, u32)], rest: &[u32]) -> Option<u32> {
    duties.sort_unstable();
    let mut reached = vec![false; states];
    let mut todo = rest.to_vec();
    for &id in rest {
        reached[id as usize] = true;
    }
    while let Some(id) = todo.pop() {
        let first = duties.partition_point(|&(to, _)| to < id);
        for &(_, from) in duties[first..].iter().take_while(|&&(to, _)| to == id) {
            if !std::mem::replace(&mut reached[from as usize], true) {
                todo.push(from);
            }
        }
    }
    let endless = reached.iter().position(|&is_reached| !is_reached);
    endless.map(|id| id as u32)
}

/// Repeats the steps from the beginning to a state.
fn trace<M: Model>(model: &M, parent: &[(u32, u16)], mut id: u32) -> Vec<String> {
    let mut picks = Vec::new();
    while id != 0 {
        picks.push(parent[id as usize].1);
        id = parent[id as usize].0;
    }
    let mut state = model.init();
    let mut lines = Vec::new();
    for pick in picks.into_iter().rev() {
        let mut out = Vec::new();
        model.steps(&state, &mut out);
        let (_, step, next) = out.swap_remove(usize::from(pick));
        lines.push(format!("{step:?}"));
        state = next;
    }
    lines.push(format!("=> {state:?}"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters that go up to three. What may happen, and what must not, depends on the test.
    struct Counters {
        kind: Kind,
        forbidden: (u8, u8),
        goes_back: bool,
    }

    impl Model for Counters {
        type State = (u8, u8);
        type Step = (u8, u8);

        fn init(&self) -> (u8, u8) {
            (0, 0)
        }

        fn steps(&self, &(a, b): &(u8, u8), out: &mut Steps<Self>) {
            for next in [(a + 1, b), (a, b + 1)] {
                if next.0 <= 3 && next.1 <= 3 {
                    out.push((self.kind, next, next));
                }
            }
            if self.goes_back && (a, b) == (3, 3) {
                out.push((Kind::Duty, (2, 3), (2, 3)));
            }
        }

        fn always(&self, state: &(u8, u8)) -> Result<(), &'static str> {
            if *state == self.forbidden {
                return Err("forbidden");
            }
            Ok(())
        }

        fn at_rest(&self, state: &(u8, u8)) -> Result<(), &'static str> {
            if *state != (3, 3) {
                return Err("too early");
            }
            Ok(())
        }
    }

    const COUNTERS: Counters = Counters {
        kind: Kind::Duty,
        forbidden: (9, 9),
        goes_back: false,
    };

    fn violation(model: &Counters) -> Violation {
        let report = search(model, 1_000);
        report.violation.expect("something is wrong with the model")
    }

    #[test]
    fn every_state_is_seen_once() {
        let report = search(&COUNTERS, 1_000);
        assert!(report.violation.is_none());
        assert!(report.complete);
        assert_eq!((report.states, report.steps), (16, 24));
        assert_eq!((report.depth, report.at_rest), (6, 1));
    }

    #[test]
    fn the_trace_of_a_violation_is_a_shortest_one() {
        let found = violation(&Counters {
            forbidden: (2, 1),
            ..COUNTERS
        });
        assert_eq!(found.what, "forbidden");
        assert_eq!(found.trace.len(), 4);
        assert_eq!(found.trace[3], "=> (2, 1)");
    }

    #[test]
    fn what_may_happen_need_not_happen() {
        let found = violation(&Counters {
            kind: Kind::Chance,
            ..COUNTERS
        });
        assert_eq!(found.what, "at rest: too early");
        assert_eq!(found.trace, ["=> (0, 0)"]);
    }

    #[test]
    fn duties_that_run_in_circles_are_found() {
        let found = violation(&Counters {
            goes_back: true,
            ..COUNTERS
        });
        assert_eq!(found.what, "it never comes to rest");
    }

    #[test]
    fn a_search_that_ends_at_its_limit_proves_nothing() {
        let report = search(&COUNTERS, 5);
        assert!(!report.complete);
        assert!(report.violation.is_none());
    }
}
