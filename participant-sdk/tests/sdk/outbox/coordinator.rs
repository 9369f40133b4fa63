//! A coordinator in memory whose answers get lost, which dies, and whose receivers refuse.
//!
//! It is strict where the real one is: another body under a known id is a failure of the test, a
//! question about an unknown id makes it aborted (protocol C2), and so is it if two messages of one
//! key are under way at once (H13).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use unanimity_sdk::{Handed, Handover, HandoverError, HandoverMessage, MessageStatus, Xid};

#[derive(Debug, Clone, PartialEq)]
struct Body {
    name: String,
    key: Option<String>,
    payload: Vec<u8>,
    targets: usize,
}

/// What the coordinator and its receivers do. Chances are per cent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Every call fails before it arrives.
    pub(crate) dead: bool,
    /// Calls that do not arrive.
    pub(crate) lost: u8,
    /// Calls that arrive and whose answer does not.
    pub(crate) unanswered: u8,
    /// Messages whose delivery is parked.
    pub(crate) parks: u8,
    /// Every hand-over is refused for good.
    pub(crate) refuses: bool,
    /// Nothing is delivered by itself: messages stay open.
    pub(crate) holds: bool,
}

#[derive(Default)]
struct State {
    faults: Faults,
    bodies: BTreeMap<Xid, Body>,
    status: BTreeMap<Xid, MessageStatus>,
    /// Calls to `hand_over` that arrived, each id's.
    arrivals: BTreeMap<Xid, u32>,
    /// Messages in the order in which they were delivered.
    delivered: Vec<Xid>,
    /// Messages that were parked once: their order is not kept.
    replayed: BTreeSet<Xid>,
    violations: Vec<String>,
    hits: BTreeMap<&'static str, u32>,
}

/// The coordinator; clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeCoordinator {
    state: Arc<Mutex<State>>,
    random: Arc<Mutex<fastrand::Rng>>,
    /// Closed: hand-overs that arrived get no answer until it is opened.
    gate: Arc<Semaphore>,
}

const OPEN: usize = 1_000_000;

impl FakeCoordinator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: Arc::default(),
            random: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
            gate: Arc::new(Semaphore::new(OPEN)),
        }
    }

    pub(crate) fn set(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// From now on what arrives gets no answer.
    pub(crate) fn close_gate(&self) {
        self.gate.forget_permits(OPEN * 2);
    }

    pub(crate) fn open_gate(&self) {
        self.gate.add_permits(OPEN);
    }

    pub(crate) fn arrivals(&self, id: Xid) -> u32 {
        self.state.lock().unwrap().arrivals.get(&id).copied().unwrap_or(0)
    }

    pub(crate) fn messages(&self) -> usize {
        self.state.lock().unwrap().bodies.len()
    }

    pub(crate) fn status_of(&self, id: Xid) -> Option<MessageStatus> {
        self.state.lock().unwrap().status.get(&id).copied()
    }

    /// Says what became of a message.
    pub(crate) fn set_status(&self, id: Xid, status: MessageStatus) {
        let mut state = self.state.lock().unwrap();
        if status == MessageStatus::Delivered {
            state.delivered.push(id);
        }
        state.status.insert(id, status);
    }

    /// The payloads of delivered messages in the order of their delivery, by key.
    pub(crate) fn delivered(&self) -> Vec<(Xid, Option<String>, String)> {
        let state = self.state.lock().unwrap();
        let one = |id: &Xid| {
            let body = &state.bodies[id];
            (*id, body.key.clone(), String::from_utf8(body.payload.clone()).unwrap())
        };
        state.delivered.iter().map(one).collect()
    }

    pub(crate) fn was_replayed(&self, id: Xid) -> bool {
        self.state.lock().unwrap().replayed.contains(&id)
    }

    pub(crate) fn hits(&self) -> BTreeMap<&'static str, u32> {
        self.state.lock().unwrap().hits.clone()
    }

    /// Panics with what the relay did wrong, if anything.
    pub(crate) fn check(&self) {
        let state = self.state.lock().unwrap();
        assert!(state.violations.is_empty(), "{:#?}", state.violations);
        let unique: BTreeSet<_> = state.delivered.iter().collect();
        assert_eq!(unique.len(), state.delivered.len(), "one message, one delivery");
    }

    fn chance(&self, per_cent: u8) -> bool {
        per_cent > 0 && self.random.lock().unwrap().u8(..100) < per_cent
    }

    fn arrive(&self, message: &HandoverMessage) -> Result<Handed, HandoverError> {
        let faults = self.state.lock().unwrap().faults.clone();
        let (lost, unanswered) = (self.chance(faults.lost), self.chance(faults.unanswered));
        let mut state = self.state.lock().unwrap();
        let mut hit = |name| *state.hits.entry(name).or_default() += 1;
        if faults.dead || lost {
            hit("lost");
            return Err(no_answer());
        }
        *state.arrivals.entry(message.id).or_default() += 1;
        if faults.refuses {
            return Err(refusal());
        }
        let body = Body {
            name: message.name.clone(),
            key: message.key.clone(),
            payload: message.payload.to_vec(),
            targets: message.targets.len(),
        };
        match state.bodies.get(&message.id).cloned() {
            Some(known) if known != body => state.violations.push(format!("another body: {}", message.id)),
            Some(_) => *state.hits.entry("repeated").or_default() += 1,
            None if state.status.contains_key(&message.id) => {}
            None => {
                if let (Some(key), Some(other)) = (&message.key, state.under_way(message)) {
                    state.violations.push(format!("two of {key}: {} while {other}", message.id));
                }
                state.bodies.insert(message.id, body);
                state.status.insert(message.id, MessageStatus::Open);
            }
        }
        if unanswered {
            *state.hits.entry("unanswered").or_default() += 1;
            return Err(no_answer());
        }
        Ok(Handed { status: state.status[&message.id] })
    }
}

impl State {
    /// Another message of the same key that is under way.
    fn under_way(&self, message: &HandoverMessage) -> Option<Xid> {
        let open = |(id, body): (&Xid, &Body)| {
            let same = body.key == message.key && *id != message.id && !self.replayed.contains(id);
            (same && self.status.get(id) == Some(&MessageStatus::Open)).then_some(*id)
        };
        self.bodies.iter().find_map(open)
    }
}

fn no_answer() -> HandoverError {
    HandoverError { retryable: true, retry_after: None, message: "no answer".into() }
}

fn refusal() -> HandoverError {
    HandoverError {
        retryable: false,
        retry_after: None,
        message: "target_not_allowed: not on the list".into(),
    }
}

impl Handover for FakeCoordinator {
    fn hand_over<'a>(&'a self, message: &'a HandoverMessage) -> BoxFuture<'a, Result<Handed, HandoverError>> {
        Box::pin(async move {
            let answer = self.arrive(message);
            let _gate = self.gate.acquire().await.unwrap();
            tokio::time::sleep(Duration::from_micros(200)).await;
            answer
        })
    }

    fn status<'a>(&'a self, ids: &'a [Xid]) -> BoxFuture<'a, Result<Vec<MessageStatus>, HandoverError>> {
        Box::pin(async move {
            let faults = self.state.lock().unwrap().faults.clone();
            if faults.dead || self.chance(faults.lost) {
                return Err(no_answer());
            }
            let mut answers = Vec::new();
            for id in ids {
                let (now, parks) = (self.chance(50), self.chance(faults.parks));
                let mut state = self.state.lock().unwrap();
                // Who asks about what never came makes it aborted.
                let status = *state.status.entry(*id).or_insert(MessageStatus::Aborted);
                let status = match status {
                    MessageStatus::Open if parks && !state.replayed.contains(id) => MessageStatus::Parked,
                    MessageStatus::Open if now && !faults.holds => {
                        state.delivered.push(*id);
                        MessageStatus::Delivered
                    }
                    other => other,
                };
                state.status.insert(*id, status);
                answers.push(status);
            }
            Ok(answers)
        })
    }

    fn retry(&self, id: Xid) -> BoxFuture<'_, Result<(), HandoverError>> {
        Box::pin(async move {
            let mut state = self.state.lock().unwrap();
            if state.faults.dead {
                return Err(no_answer());
            }
            state.replayed.insert(id);
            if state.status.get(&id) == Some(&MessageStatus::Parked) {
                state.status.insert(id, MessageStatus::Open);
            }
            Ok(())
        })
    }
}
