//! Clients who order transfers all the time, ask again, and remember everything that they hear.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::wait::http_client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{ACCOUNTS, Stack};
use crate::orders::{Heard, Told, told};

/// Longer than the teller takes for any answer of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// What a client waits after a transfer without an outcome: an outage shall not be a flood of transfers.
const PAUSE: Duration = Duration::from_millis(150);
/// One transfer in so many is asked about again although its outcome was told.
const ASK_AGAIN_EVERY: u32 = 8;
/// The most that one transfer moves, in cents.
const CENTS_MAX: i64 = 15_000;

/// An account: bank and name.
pub(super) type Place = (&'static str, String);

/// A transfer that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) cents: i64,
}

impl Wanted {
    fn random(banks: &[&'static str], random: &mut fastrand::Rng) -> Self {
        let from = random.usize(..banks.len());
        let to = (from + random.usize(1..banks.len())) % banks.len();
        let mut place = |bank: usize| (banks[bank], format!("account-{}", random.u32(..ACCOUNTS)));
        let (from, to) = (place(from), place(to));
        Self { from, to, cents: random.i64(1..=CENTS_MAX) }
    }

    fn body(&self, xid: Uuid) -> Value {
        let place = |(bank, account): &Place| json!({"bank": bank, "account": account});
        json!({"id": xid, "from": place(&self.from), "to": place(&self.to), "cents": self.cents})
    }
}

/// A transfer and all that was heard about it.
#[derive(Debug, Clone)]
pub(super) struct Story {
    pub(super) wanted: Wanted,
    pub(super) heard: Heard,
}

#[derive(Debug)]
pub(super) struct Clients {
    http: reqwest::Client,
    transfers_url: String,
    coordinator_url: String,
    banks: Vec<&'static str>,
    stories: Mutex<HashMap<Uuid, Story>>,
    closed: AtomicBool,
}

impl Clients {
    pub(super) fn open(stack: &Stack) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            http: http_client(ANSWER_LIMIT)?,
            transfers_url: format!("{}/transfers", stack.teller_url),
            coordinator_url: format!("{}/v1/transactions", stack.coordinator.url()),
            banks: stack.banks.iter().map(|bank| bank.name).collect(),
            stories: Mutex::default(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Lets so many clients in.
    pub(super) fn start(self: &Arc<Self>, count: u64, random: &mut fastrand::Rng) -> Vec<JoinHandle<()>> {
        let client = |_| {
            let (clients, mut random) = (Arc::clone(self), random.fork());
            tokio::spawn(async move {
                while !clients.closed.load(Ordering::Relaxed) {
                    clients.order(&mut random).await;
                }
            })
        };
        (0..count).map(client).collect()
    }

    /// Nobody orders any more; what is under way ends.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// How many transfers have been answered, or given up.
    pub(super) fn made(&self) -> usize {
        self.stories.lock().unwrap().values().filter(|story| !story.heard.0.is_empty()).count()
    }

    /// How many of them committed, as far as their clients know.
    pub(super) fn committed(&self) -> usize {
        self.stories.lock().unwrap().values().filter(|story| story.heard.has(Told::Committed)).count()
    }

    pub(super) fn all(&self) -> HashMap<Uuid, Story> {
        self.stories.lock().unwrap().clone()
    }

    /// Orders one transfer; asks again where nobody knew, and now and then where somebody did.
    async fn order(&self, random: &mut fastrand::Rng) {
        // Not from the seed: an xid must never come again.
        let xid = Uuid::new_v4();
        let wanted = Wanted::random(&self.banks, random);
        let body = wanted.body(xid);
        self.stories.lock().unwrap().insert(xid, Story { wanted, heard: Heard::default() });
        let told = self.tell(xid, "teller", self.http.post(&self.transfers_url).json(&body)).await;
        if told == Told::Unknown {
            tokio::time::sleep(PAUSE).await;
            // Some give up, some ask, some want an end of it, some try once more.
            match random.u32(..5) {
                0 => {}
                1 => drop(self.ask_teller(xid).await),
                2 => drop(self.ask_coordinator(xid).await),
                3 => drop(self.tell(xid, "again", self.http.post(&self.transfers_url).json(&body)).await),
                _ => drop(self.settle(xid).await),
            }
        } else if random.u32(..ASK_AGAIN_EVERY) == 0 {
            match random.u32(..3) {
                0 => drop(self.ask_teller(xid).await),
                1 => drop(self.ask_coordinator(xid).await),
                // The very same transfer once more: must not move the money twice.
                _ => drop(self.tell(xid, "again", self.http.post(&self.transfers_url).json(&body)).await),
            }
        }
    }

    /// Asks the teller.
    async fn ask_teller(&self, xid: Uuid) -> Told {
        self.tell(xid, "asked", self.http.get(format!("{}/{xid}", self.transfers_url))).await
    }

    /// Asks the teller to abort what is not decided.
    pub(super) async fn settle(&self, xid: Uuid) -> Told {
        self.tell(xid, "settle", self.http.post(format!("{}/{xid}/settle", self.transfers_url))).await
    }

    /// Asks the coordinator itself.
    pub(super) async fn ask_coordinator(&self, xid: Uuid) -> Told {
        self.tell(xid, "coordinator", self.http.get(format!("{}/{xid}", self.coordinator_url))).await
    }

    async fn tell(&self, xid: Uuid, whom: &'static str, request: reqwest::RequestBuilder) -> Told {
        let told = told(request).await.unwrap_or(Told::Unknown);
        if let Some(story) = self.stories.lock().unwrap().get_mut(&xid) {
            story.heard.0.push((whom, told));
        }
        told
    }
}
