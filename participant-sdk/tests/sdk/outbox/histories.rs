//! Random histories: senders that commit and roll back, relays that are killed, frozen past their
//! lease and started again, a coordinator that is away, loses answers and parks deliveries.
//!
//! What must hold at the end (I10, H13): every message of a committed transaction is delivered, none
//! of one that was rolled back; each once, under one id; those of one key in the order of their
//! sends, apart from dead letters that were replayed.
//!
//! `UNANIMITY_SEED` repeats a plan of faults, not the machine's interleaving.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{MySql, Pool, Postgres, Sqlite};
use unanimity_sdk::{Outbox, Xid};

use super::coordinator::{FakeCoordinator, Faults};
use super::databases::{OutboxTest, outbox};
use super::rules::{LEASE, message, relay};

const KEYS: [&str; 5] = ["order-1", "order-2", "order-3", "order-4", "order-5"];
/// Messages of each of two senders.
const SENDS: u32 = 60;
/// Faults in one history.
const FAULTS: u32 = 14;
/// How long a history may take to settle once the faults have ended.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// What was sent: the payload of each committed message, by id.
type Sent = Arc<Mutex<BTreeMap<Xid, String>>>;

/// A relay in a process of its own, as near as a test comes to it: a runtime that can be thrown away
/// in the middle of whatever it does.
struct Process {
    runtime: tokio::runtime::Runtime,
}

impl Process {
    fn start<DB: OutboxTest>(pool: &Pool<DB>, fake: &FakeCoordinator) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let (pool, fake) = (pool.clone(), fake.clone());
        runtime.spawn(async move {
            let outbox = Outbox::new(DB::again(&pool).await);
            let _relay = relay(&outbox, &fake);
            std::future::pending::<()>().await;
        });
        Self { runtime }
    }

    /// Its tasks end wherever they are.
    fn kill(self) {
        self.runtime.shutdown_background();
    }

    /// Its only thread does nothing for so long.
    fn freeze(&self, pause: Duration) {
        self.runtime.spawn(async move { std::thread::sleep(pause) });
    }
}

async fn send<DB: OutboxTest>(outbox: &Outbox<DB>, random: &mut fastrand::Rng, sent: &Sent) {
    let key = (random.u8(..4) > 0).then(|| KEYS[random.usize(..KEYS.len())]);
    let commits = random.u8(..5) > 0;
    let mut tx = DB::writing(outbox.pool()).await;
    // The counter's row is what excludes senders of one key from each other.
    let row = key.unwrap_or("none");
    DB::execute(&mut tx, &format!("UPDATE business SET sent = sent + 1 WHERE k = '{row}'")).await;
    let number = DB::number_in(&mut tx, &format!("SELECT sent FROM business WHERE k = '{row}'")).await;
    let payload = number.to_string();
    let id = outbox.send(&mut tx, &message(key, &payload)).await.unwrap();
    if commits {
        // Before the commit: the coordinator may have it before we are told.
        sent.lock().unwrap().insert(id, payload);
        tx.commit().await.unwrap();
        outbox.wake();
    } else {
        tx.rollback().await.unwrap();
    }
}

async fn history<DB: OutboxTest>(seed: u64) {
    let Some((outbox, _guard)) = outbox::<DB>().await else { return };
    let mut random = fastrand::Rng::with_seed(seed);
    let fake = FakeCoordinator::new(random.u64(..));
    let mut connection = outbox.pool().acquire().await.unwrap();
    for key in KEYS.into_iter().chain(["none"]) {
        DB::execute(&mut connection, &format!("INSERT INTO business VALUES ('{key}', 0)")).await;
    }
    drop(connection);

    let sent = Sent::default();
    let over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let (outbox, sent, mut random) = (outbox.clone(), Arc::clone(&sent), random.fork());
            tokio::spawn(async move {
                for _ in 0..SENDS {
                    send(&outbox, &mut random, &sent).await;
                    tokio::time::sleep(Duration::from_millis(random.u64(..30))).await;
                }
            })
        })
        .collect();
    let replays = {
        let (outbox, fake, over) = (outbox.clone(), fake.clone(), Arc::clone(&over));
        tokio::spawn(async move { replay_the_dead(&outbox, &fake, &over).await })
    };

    let mut processes = vec![Process::start(outbox.pool(), &fake), Process::start(outbox.pool(), &fake)];
    let (mut kills, mut freezes) = (0, 0);
    for _ in 0..FAULTS {
        match random.u8(..6) {
            0 | 1 => {
                processes.swap_remove(random.usize(..processes.len())).kill();
                processes.push(Process::start(outbox.pool(), &fake));
                kills += 1;
            }
            2 => {
                processes[random.usize(..processes.len())].freeze(LEASE * 2);
                freezes += 1;
            }
            3 => fake.set(Faults { dead: true, ..Faults::default() }),
            4 => fake.set(Faults { lost: 20, unanswered: 20, parks: 10, ..Faults::default() }),
            _ => fake.set(Faults { unanswered: 60, parks: 20, ..Faults::default() }),
        }
        tokio::time::sleep(Duration::from_millis(random.u64(50..500))).await;
    }
    fake.set(Faults::default());
    for sender in senders {
        sender.await.unwrap();
    }
    let end = tokio::time::Instant::now() + SETTLES_WITHIN;
    let rest = "SELECT count(*) FROM unanimity_outbox WHERE state <> 'delivered'";
    while DB::number(outbox.pool(), rest).await > 0 {
        assert!(tokio::time::Instant::now() < end, "seed {seed}: it does not settle");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    over.store(true, Ordering::SeqCst);
    let replayed = replays.await.unwrap();
    for process in processes {
        process.kill();
    }
    check(&fake, &sent);
    eprintln!(
        "seed {seed}: {} messages, {kills} kills, {freezes} freezes, {replayed} replays, {:?}",
        sent.lock().unwrap().len(),
        fake.hits()
    );
}

/// An operator who replays whatever is dead.
async fn replay_the_dead<DB: OutboxTest>(
    outbox: &Outbox<DB>,
    fake: &FakeCoordinator,
    over: &AtomicBool,
) -> u32 {
    let elsewhere = Outbox::new(DB::again(outbox.pool()).await);
    let relay = relay(&elsewhere, fake);
    let mut replayed = 0;
    while !over.load(Ordering::SeqCst) {
        for letter in relay.dead_letters(0, 100).await.unwrap() {
            // While the coordinator is away it cannot be.
            replayed += u32::from(relay.replay(letter.id).await.is_ok());
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    relay.shutdown().await;
    replayed
}

fn check(fake: &FakeCoordinator, sent: &Sent) {
    fake.check();
    let delivered = fake.delivered();
    let got: BTreeMap<_, _> = delivered.iter().map(|(id, _, payload)| (*id, payload.clone())).collect();
    assert_eq!(got, *sent.lock().unwrap(), "committed and delivered are the same messages");
    for key in KEYS {
        let in_order: Vec<u32> = delivered
            .iter()
            .filter(|(id, k, _)| k.as_deref() == Some(key) && !fake.was_replayed(*id))
            .map(|(_, _, payload)| payload.parse().unwrap())
            .collect();
        assert!(in_order.is_sorted(), "{key}: {in_order:?}");
    }
}

async fn histories<DB: OutboxTest>() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("UNANIMITY_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("UNANIMITY_SEED={seed}");
    for n in 0..number("UNANIMITY_HISTORIES").unwrap_or(2) {
        history::<DB>(seed.wrapping_add(n)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_to_o4_random_histories_on_sqlite() {
    histories::<Sqlite>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_to_o4_random_histories_on_postgres() {
    histories::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_to_o4_random_histories_on_mariadb() {
    histories::<MySql>().await;
}
