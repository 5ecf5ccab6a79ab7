//! The queues in which logins and joins wait for their turn. Without them all requests of a storm would fail.
//!
//! Each login asks the store and chat several times. If thousands are under way at once, every one of them is slow, and
//! most time out after two seconds with nothing done. So a process serves a few at once for each pair of shards, first
//! come, first served.
//!
//! A request that would not be served in time is refused, and its client is told when to come again. These times are
//! spread over as long as it takes to serve everybody, as measured lately. When a crowd comes at once, the first requests are
//! served slowly, and clients get long times. As soon as others are served faster, clients get shorter ones.

use crate::chat_client::CALL;
use crate::metering::PUT_OFF;
use channel_store::{Place, Shard};
use metrics::counter;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use wire::Refusal;

/// Logins and joins that are served at once. Each waits for some round trips to the store, so a few are enough to keep
/// the process busy.
const AT_ONCE: u32 = 32;
/// The longest time for which a request waits for its turn. The rest of its time is needed to serve it.
const PATIENCE: Duration = Duration::from_millis(900);
/// The time that serving one request takes, before anything was measured.
const FIRST_GUESS: Duration = Duration::from_millis(20);
/// No client is told to come again earlier than this …
const SOONEST: Duration = Duration::from_millis(500);
/// … or later than this. A client that has lost its connection keeps its place while the grace of the operator lasts. It would lose the
/// place if it had to stay away for longer. To ask again costs little.
const LATEST: Duration = Duration::from_secs(8);

/// One queue for each pair of shards that is needed to serve a request. If a shard is away, only the requests that need
/// it wait.
pub(crate) struct AdmissionQueues {
    shard: Box<dyn Fn(&Place) -> Shard + Send + Sync>,
    /// There are as many queues as pairs of shards that were asked for.
    by_shards: Mutex<BTreeMap<[Shard; 2], Arc<AdmissionQueue>>>,
}

impl AdmissionQueues {
    /// `shard` tells the shard of a channel or user.
    pub(crate) fn new(shard: impl Fn(&Place) -> Shard + Send + Sync + 'static) -> Self {
        Self {
            shard: Box::new(shard),
            by_shards: Mutex::default(),
        }
    }

    /// The queue of requests that need both places.
    pub(crate) fn of(&self, places: [&Place; 2]) -> Arc<AdmissionQueue> {
        let shards = places.map(|place| (self.shard)(place));
        let mut queues = self.by_shards.lock();
        let queue = queues.entry(shards);
        Arc::clone(queue.or_insert_with(|| Arc::new(AdmissionQueue::new())))
    }
}

/// A queue of requests to log in or to join a channel.
pub(crate) struct AdmissionQueue {
    places: Semaphore,
    pace: Mutex<Pace>,
}

struct Pace {
    /// The time that serving one request takes: a moving average.
    service: Duration,
    /// The clients that were told to come again and are not due yet, at the present pace.
    told: f64,
    /// When they were counted.
    counted: Instant,
}

/// A request's turn. It ends when this is dropped.
pub(crate) struct Turn<'a> {
    queue: &'a AdmissionQueue,
    began: Instant,
    _place: SemaphorePermit<'a>,
}

impl AdmissionQueue {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self {
            places: Semaphore::new(AT_ONCE as usize),
            pace: Mutex::new(Pace {
                service: FIRST_GUESS,
                told: 0.0,
                counted: Instant::now(),
            }),
        }
    }

    /// Returns when it is the request's turn: first come, first served.
    ///
    /// # Errors
    /// A refusal that says when to come again, if the turn does not come early enough to serve the request by its
    /// deadline.
    pub(crate) async fn turn(&self, deadline: Instant) -> Result<Turn<'_>, Refusal> {
        let until = deadline.checked_sub(CALL - PATIENCE).unwrap_or(deadline);
        match timeout_at(until, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(Turn {
                queue: self,
                began: Instant::now(),
                _place: place,
            }),
            Ok(Err(_)) | Err(_) => {
                counter!(PUT_OFF).increment(1);
                Err(Refusal::try_later(self.come_again()))
            }
        }
    }

    /// How long a client has to wait. It comes after all clients that were told before, as fast as they can be served.
    /// A fifth of the capacity is kept for clients that come for the first time.
    fn come_again(&self) -> Duration {
        let now = Instant::now();
        let mut pace = self.pace.lock();
        let each = pace.service.mul_f64(1.25 / f64::from(AT_ONCE));
        let each = each.max(Duration::from_micros(1));
        let due = now.duration_since(pace.counted).div_duration_f64(each);
        pace.told = (pace.told - due).max(0.0) + 1.0;
        pace.counted = now;
        let pause = SOONEST + each.mul_f64(pace.told);
        if pause <= LATEST {
            return pause;
        }
        pace.told = (LATEST - SOONEST).div_duration_f64(each);
        LATEST.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut pace = self.queue.pace.lock();
        pace.service = (7 * pace.service + self.began.elapsed()) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use channel_store::ChannelName;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::JoinSet;
    use tokio::time::sleep;

    /// The pause that a client was told.
    fn pause_of(refusal: &Refusal) -> Duration {
        let body = refusal.body(wire::Protocol::Json);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["code"], 429);
        Duration::from_millis(body["retryAfterMs"].as_u64().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn no_client_is_told_to_wait_longer_than_the_latest_time() {
        let queue = AdmissionQueue::new();
        // Enough clients for twice that time, as fast as they can be served at first.
        for _ in 0..100_000 {
            assert!(queue.come_again() <= LATEST);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_slow_requests_clients_wait_for_a_shorter_time_as_soon_as_others_are_faster() {
        let queue = AdmissionQueue::new();
        let serve = async |took| {
            let turn = queue.turn(Instant::now() + CALL).await.ok().unwrap();
            sleep(took).await;
            drop(turn);
        };
        for _ in 0..20 {
            serve(Duration::from_secs(2)).await;
        }
        for _ in 0..1_000 {
            queue.come_again();
        }
        for _ in 0..40 {
            serve(Duration::from_millis(5)).await;
        }
        // At the slow pace, the clients ahead filled the time up to the latest. At the present pace, they are served within a moment.
        let pause = queue.come_again();
        assert!(pause < SOONEST + Duration::from_millis(300), "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_served_in_order_and_only_some_at_the_same_time() {
        let queue = Arc::new(AdmissionQueue::new());
        let (under_way, served) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::default()));
        let mut clients = JoinSet::new();
        for number in 0..200 {
            let (queue, under_way) = (Arc::clone(&queue), Arc::clone(&under_way));
            let served: Arc<Mutex<Vec<usize>>> = Arc::clone(&served);
            clients.spawn(async move {
                let turn = queue.turn(Instant::now() + CALL).await;
                served.lock().push(number);
                assert!(under_way.fetch_add(1, Ordering::Relaxed) < AT_ONCE as usize);
                sleep(Duration::from_millis(100)).await;
                under_way.fetch_sub(1, Ordering::Relaxed);
                assert!(turn.is_ok(), "there is time for all of them");
            });
        }
        clients.join_all().await;
        assert!(served.lock().is_sorted());
        assert_eq!(served.lock().len(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_waited_for_another_request_is_also_refused_in_time() {
        let queue = AdmissionQueue::new();
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(queue.turn(Instant::now() + CALL).await.ok().unwrap());
        }
        let began = Instant::now();
        for waited in [Duration::ZERO, PATIENCE / 2, CALL] {
            let deadline = began + CALL;
            let _ = timeout_at(began + waited, std::future::pending::<()>()).await;
            let refusal = queue.turn(deadline).await.err().unwrap();
            assert!(pause_of(&refusal) >= SOONEST);
            assert!(began.elapsed() <= PATIENCE.max(waited) + Duration::from_millis(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_for_a_shard_that_is_away_delay_no_others() {
        let place = |name: &str| Place::Channel(ChannelName::new(name).unwrap());
        let (here, away) = (place("here"), place("away"));
        let queues = AdmissionQueues::new(move |it| match *it == place("away") {
            true => Shard::new(1),
            false => Shard::default(),
        });
        let line = queues.of([&here, &away]);
        let mut turns = Vec::new();
        let began = Instant::now();
        for _ in 0..AT_ONCE {
            turns.push(line.turn(began + CALL).await.ok().unwrap());
        }
        let other_line = queues.of([&here, &here]);
        assert!(other_line.turn(began + CALL).await.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO);
        // All requests that need this shard wait in one queue.
        let same_line = queues.of([&here, &away]);
        assert!(same_line.turn(began + CALL).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_storm_clients_that_retry_when_they_are_told_to_get_in() {
        let queue = Arc::new(AdmissionQueue::new());
        let began = Instant::now();
        let tries = Arc::new(Mutex::new(BTreeMap::<usize, usize>::new()));
        let mut clients = JoinSet::new();
        for _ in 0..5_000 {
            let (queue, tries) = (Arc::clone(&queue), Arc::clone(&tries));
            clients.spawn(async move {
                for count in 1.. {
                    let asked = Instant::now();
                    match queue.turn(asked + CALL).await {
                        Ok(turn) => {
                            sleep(Duration::from_millis(50 + fastrand::u64(..100))).await;
                            assert!(asked.elapsed() < CALL);
                            drop(turn);
                            *tries.lock().entry(count).or_default() += 1;
                            return;
                        }
                        Err(refusal) => {
                            assert!(asked.elapsed() < CALL);
                            sleep(pause_of(&refusal)).await;
                        }
                    }
                }
            });
        }
        clients.join_all().await;
        let (tries, took) = (tries.lock().clone(), began.elapsed());
        println!("{tries:?} tries, {took:?}");
        // 320 a second can be served, which makes 16 s for all. Most clients that were put off get in with the next
        // attempt.
        assert!(took < Duration::from_secs(25), "{took:?}");
        let often: usize = tries.range(4..).map(|(_, clients)| clients).sum();
        assert!(often < 500, "{tries:?}");
    }
}
