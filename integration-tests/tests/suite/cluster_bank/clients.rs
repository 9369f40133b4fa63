//! Clients who make transfers in all modes all the time, ask again, and remember everything that they hear.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::wait::http_client;
use serde_json::Value;
use tokio::task::JoinHandle;
use unanimity_sdk::{Client, ClientError, Decision, ErrorCode, Xid};
use uuid::Uuid;

use super::plan::Plan;
use super::stack::{Map, Stack};
use crate::orders::{Heard, Told};

/// Longer than anybody takes for an answer of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How long the SDK repeats a commit: unknown outcomes shall happen.
const COMMIT_RETRY_FOR: Duration = Duration::from_secs(8);
/// What a client waits after a transfer without an outcome: an outage shall not be a flood of transfers.
const PAUSE: Duration = Duration::from_millis(150);
/// One transfer in so many is asked about again although its outcome was told.
const ASK_AGAIN_EVERY: u32 = 6;
/// One transfer in so many goes to an account that nobody has.
const NOBODY_EVERY: u32 = 12;
/// The most that one transfer moves, in cents.
const CENTS_MAX: i64 = 10_000;

/// How a transfer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Tcc,
    /// Under a lock key for the account that pays.
    Locked,
    /// Begun and decided by HTTP, at whatever coordinator.
    TccHttp,
    TwoPhase,
    Saga,
    SagaHttp,
    /// A prepared message.
    Message,
    Outbox,
}

impl Mode {
    pub(super) const ALL: [Self; 8] = [
        Self::Tcc,
        Self::Locked,
        Self::TccHttp,
        Self::TwoPhase,
        Self::Saga,
        Self::SagaHttp,
        Self::Message,
        Self::Outbox,
    ];

    /// Whether whoever does not know the outcome may ask for an abort. A message's sender decides by its own database.
    pub(super) fn may_abort(self) -> bool {
        !matches!(self, Self::Message | Self::Outbox)
    }

    /// Whether the transfer's id is its transaction's.
    pub(super) fn is_named(self) -> bool {
        self != Self::Outbox
    }
}

/// An account: bank and name.
pub(super) type Place = (&'static str, String);

/// A transfer that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) mode: Mode,
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) cents: i64,
    /// Sagas: what the third bank will say.
    pub(super) approved: bool,
    /// With an xid that the client minted: begun by a call, durable from birth.
    pub(super) own: bool,
}

impl Wanted {
    fn random(map: &Map, random: &mut fastrand::Rng) -> Self {
        let banks = map.banks.len();
        let from = random.usize(..banks);
        let to = (from + random.usize(1..banks)) % banks;
        let mode = *random.choice(&Mode::ALL).expect("there are modes");
        // A message must be deliverable: what cannot be is a matter for a person.
        let nobody = mode.may_abort() && random.u32(..NOBODY_EVERY) == 0;
        let account = if nobody { "nobody".to_owned() } else { map.account(random) };
        Self {
            mode,
            from: (map.banks[from].0, map.account(random)),
            to: (map.banks[to].0, account),
            cents: random.i64(1..=CENTS_MAX),
            approved: random.u32(..8) > 0,
            own: random.bool(),
        }
    }
}

/// A transfer and all that was heard about it.
#[derive(Debug, Clone)]
pub(super) struct Story {
    pub(super) wanted: Wanted,
    pub(super) heard: Heard,
}

/// What all clients share.
pub(super) struct Clients {
    pub(super) map: Map,
    pub(super) http: reqwest::Client,
    /// One for every four clients, each told of the coordinators in another order, the last one of a single one.
    pub(super) sdk: Vec<Client>,
    stories: Mutex<HashMap<Uuid, Story>>,
    /// Stories of which something was heard, and those of a commit.
    made: AtomicUsize,
    committed: AtomicUsize,
    closed: AtomicBool,
}

impl Clients {
    pub(super) fn open(stack: &Stack) -> anyhow::Result<Arc<Self>> {
        let map = stack.map();
        let mut sdk = Vec::new();
        for first in 0..=map.doors.len() {
            let mut doors = map.doors.clone();
            match doors.len() {
                all if first == all => doors.truncate(1),
                _ => doors.rotate_left(first),
            }
            sdk.push(Client::builder(doors).commit_retry_for(COMMIT_RETRY_FOR).connect()?);
        }
        let http = http_client(ANSWER_LIMIT)?;
        Ok(Arc::new(Self {
            map,
            http,
            sdk,
            stories: Mutex::default(),
            made: AtomicUsize::new(0),
            committed: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }))
    }

    /// Lets all clients in.
    pub(super) fn start(self: &Arc<Self>, plan: Plan, random: &mut fastrand::Rng) -> Vec<JoinHandle<()>> {
        let client = |number: usize| {
            let (clients, mut random) = (Arc::clone(self), random.fork());
            tokio::spawn(async move {
                let sdk = clients.sdk[number % clients.sdk.len()].clone();
                while !clients.closed.load(Ordering::Relaxed) {
                    clients.order(&sdk, &mut random).await;
                }
            })
        };
        (0..plan.clients()).map(client).collect()
    }

    /// Nobody orders any more; what is under way ends.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// A transfer is under way; from now on it has a story.
    pub(super) fn ordered(&self, id: Uuid, wanted: &Wanted) {
        let story = Story { wanted: wanted.clone(), heard: Heard::default() };
        self.stories.lock().unwrap().insert(id, story);
    }

    /// How many transfers have been answered, or given up.
    pub(super) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// The modes in which no transfer committed: something is wrong with how they are made.
    pub(super) fn idle_modes(&self) -> Vec<Mode> {
        let stories = self.stories.lock().unwrap();
        let commits = |mode: &Mode| {
            stories.values().any(|story| story.wanted.mode == *mode && story.heard.has(Told::Committed))
        };
        Mode::ALL.into_iter().filter(|mode| !commits(mode)).collect()
    }

    /// How many of them committed, as far as their clients know.
    pub(super) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> HashMap<Uuid, Story> {
        self.stories.lock().unwrap().clone()
    }

    /// For people: by mode, how many there are, how many committed and aborted as far as is known, and how many were
    /// unknown at first.
    pub(super) fn counts(&self) -> String {
        let mut counts: BTreeMap<Mode, [usize; 4]> = BTreeMap::new();
        for story in self.stories.lock().unwrap().values() {
            let count = counts.entry(story.wanted.mode).or_default();
            count[0] += 1;
            for (place, told) in [Told::Committed, Told::Aborted].into_iter().enumerate() {
                count[place + 1] += usize::from(story.heard.has(told));
            }
            count[3] += usize::from(story.heard.0.first().is_some_and(|(_, told)| *told == Told::Unknown));
        }
        let of = |(mode, [all, committed, aborted, unknown]): (&Mode, &[usize; 4])| {
            format!("{mode:?} {all} ({committed} committed, {aborted} aborted, {unknown} unknown at first)")
        };
        counts.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    /// Makes one transfer; asks again where nobody knew, and now and then where somebody did.
    async fn order(&self, sdk: &Client, random: &mut fastrand::Rng) {
        let wanted = Wanted::random(&self.map, random);
        let Some((id, told)) = self.transfer(sdk, &wanted, random).await else {
            return tokio::time::sleep(PAUSE).await;
        };
        self.tell(id, "first", told);
        if told == Told::Unknown {
            tokio::time::sleep(PAUSE).await;
        } else if random.u32(..ASK_AGAIN_EVERY) > 0 {
            return;
        }
        match random.u32(..4) {
            // Some give up.
            0 => {}
            1 => drop(self.ask_node(id, random.choice(&self.map.doors).expect("doors")).await),
            2 => drop(self.ask_sdk(sdk, id).await),
            _ if wanted.mode.may_abort() => drop(self.settle(sdk, id).await),
            _ => drop(self.ask_bank(id, &wanted).await),
        }
    }

    /// Asks a coordinator by HTTP.
    pub(super) async fn ask_node(&self, id: Uuid, url: &str) -> Told {
        let request = self.http.get(format!("{url}/v1/transactions/{id}"));
        let told = crate::orders::told(request).await.unwrap_or(Told::Unknown);
        self.tell(id, "a coordinator", told)
    }

    /// Asks through the SDK.
    pub(super) async fn ask_sdk(&self, sdk: &Client, id: Uuid) -> Told {
        let told = match sdk.status(Xid::new(id)).await {
            Ok(info) => told_of(info.decision()),
            Err(_) => Told::Unknown,
        };
        self.tell(id, "status", told)
    }

    /// Aborts what is not decided. Either way the answer is final.
    pub(super) async fn settle(&self, sdk: &Client, id: Uuid) -> Told {
        let told = match sdk.abort(Xid::new(id)).await {
            Ok(()) => Told::Aborted,
            Err(ClientError::Refused { code: ErrorCode::AlreadyDecided, status: Some(status), .. }) => {
                told_of(status.decision())
            }
            Err(_) => Told::Unknown,
        };
        self.tell(id, "abort", told)
    }

    /// Asks the bank that pays whether it did; that it has not yet says nothing.
    async fn ask_bank(&self, id: Uuid, wanted: &Wanted) -> Told {
        let asked = async {
            let url = self.bank(wanted.from.0);
            let answer = self.http.get(format!("{url}/entries/{id}")).send().await.ok()?;
            answer.json::<Value>().await.ok()?["entries"].as_u64()
        };
        let told =
            if asked.await.is_some_and(|entries| entries > 0) { Told::Committed } else { Told::Unknown };
        self.tell(id, "the bank", told)
    }

    pub(super) fn bank(&self, name: &str) -> &str {
        let (_, url) = self.map.banks.iter().find(|(known, _)| *known == name).expect("a bank of this name");
        url
    }

    pub(super) fn tell(&self, id: Uuid, whom: &'static str, told: Told) -> Told {
        if let Some(story) = self.stories.lock().unwrap().get_mut(&id) {
            self.made.fetch_add(usize::from(story.heard.0.is_empty()), Ordering::Relaxed);
            let commits = told == Told::Committed && !story.heard.has(Told::Committed);
            self.committed.fetch_add(usize::from(commits), Ordering::Relaxed);
            story.heard.0.push((whom, told));
        }
        told
    }
}

pub(super) fn told_of(decision: Option<Decision>) -> Told {
    match decision {
        Some(Decision::Commit) => Told::Committed,
        Some(Decision::Abort) => Told::Aborted,
        None => Told::Unknown,
    }
}
