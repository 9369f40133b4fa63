//! Customers who book trips all the time, ask again, cancel, and remember everything that they hear.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::wait::http_client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Stack;
use super::services::Service;

/// Longer than the agency takes for any answer of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// What a customer waits before asking again, as people do: an outage shall not be a flood of requests.
const PAUSE: Duration = Duration::from_millis(150);
/// Who travels: customers with money, one with little, and the one without any.
const NAMES: [&str; 8] = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hanna"];
/// The customer whose trip cannot be paid, at the hotel that takes no cancellations: one trip in so many.
const BROKE_AT_THE_CASTLE_EVERY: u32 = 40;
/// One trip in so many is cancelled while it is being booked.
const CANCEL_EVERY: u32 = 12;
/// One trip in so many is asked about again although its outcome was told.
const ASK_AGAIN_EVERY: u32 = 6;

/// What a customer hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Booked,
    TurnedBack,
    /// No answer, or "nobody knows yet".
    Unknown,
}

/// Seat, room, car.
pub(super) type Booked = (i64, i64, i64);

/// What was heard about one trip, and from whom.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    pub(super) told: Vec<(&'static str, Told)>,
    /// What it was said to have, each time.
    pub(super) booked: Vec<Booked>,
}

impl Heard {
    pub(super) fn has(&self, told: Told) -> bool {
        self.told.iter().any(|(_, heard)| *heard == told)
    }
}

#[derive(Debug)]
pub(super) struct Customers {
    http: reqwest::Client,
    trips_url: String,
    coordinator_url: String,
    heard: Mutex<HashMap<Uuid, Heard>>,
    closed: AtomicBool,
}

impl Customers {
    pub(super) fn new(stack: &Stack) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            http: http_client(ANSWER_LIMIT)?,
            trips_url: format!("{}/trips", stack.services.url(Service::Agency)),
            coordinator_url: format!("{}/v1/transactions", stack.coordinator.url()),
            heard: Mutex::default(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Lets so many customers in.
    pub(super) fn start(self: &Arc<Self>, count: u64, random: &mut fastrand::Rng) -> Vec<JoinHandle<()>> {
        let travel = |_| {
            let (customers, mut random) = (Arc::clone(self), random.fork());
            tokio::spawn(async move {
                while !customers.closed.load(Ordering::Relaxed) {
                    customers.book(&mut random).await;
                }
            })
        };
        (0..count).map(travel).collect()
    }

    /// Nobody begins a trip any more; what is under way ends.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// How many trips have been answered at least once.
    pub(super) fn placed(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// How many of them are booked, as far as their customers know.
    pub(super) fn booked(&self) -> usize {
        self.heard.lock().unwrap().values().filter(|heard| heard.has(Told::Booked)).count()
    }

    pub(super) fn all(&self) -> HashMap<Uuid, Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Books one trip; asks again where nobody knew, and now and then where somebody did.
    async fn book(&self, random: &mut fastrand::Rng) {
        // Not from the seed: an xid must never come again.
        let xid = Uuid::new_v4();
        let mut one_of = |names: &[&'static str]| names[random.usize(..names.len())];
        let (flight, car) = (one_of(&["FRA-LIS", "FRA-ATH", "FRA-OSL"]), one_of(&["small", "estate", "van"]));
        let (hotel, customer) = (one_of(&["garden", "harbour"]), one_of(&NAMES));
        let mut trip = json!(
            {"id": xid, "customer": customer, "flight": flight, "hotel": hotel, "car": car});
        if random.u32(..BROKE_AT_THE_CASTLE_EVERY) == 0 {
            (trip["customer"], trip["hotel"]) = ("ivo".into(), "castle".into());
        }
        let posted = self.tell(xid, "agency", self.http.post(&self.trips_url).json(&trip));
        let mut told = if random.u32(..CANCEL_EVERY) == 0 {
            let moment = Duration::from_millis(random.u64(..250));
            let cancelled = async {
                tokio::time::sleep(moment).await;
                self.cancel(xid).await
            };
            tokio::join!(posted, cancelled).0
        } else {
            posted.await
        };
        for _ in 0..5 {
            if told != Told::Unknown {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            // Some give up, some ask, some send the very same again, some want an end of it.
            told = match random.u32(..8) {
                0 => return,
                1 => self.ask_agency(xid).await,
                2 => self.ask_coordinator(xid).await,
                3 => self.cancel(xid).await,
                _ => self.tell(xid, "agency again", self.http.post(&self.trips_url).json(&trip)).await,
            };
        }
        if random.u32(..ASK_AGAIN_EVERY) == 0 {
            match random.u32(..4) {
                0 => drop(self.ask_agency(xid).await),
                1 => drop(self.ask_coordinator(xid).await),
                2 => drop(self.cancel(xid).await),
                // Must not travel twice.
                _ => drop(self.tell(xid, "agency again", self.http.post(&self.trips_url).json(&trip)).await),
            }
        }
    }

    /// Asks the agency.
    pub(super) async fn ask_agency(&self, xid: Uuid) -> Told {
        self.tell(xid, "agency", self.http.get(format!("{}/{xid}", self.trips_url))).await
    }

    /// Turns the trip back, if it is not too late.
    pub(super) async fn cancel(&self, xid: Uuid) -> Told {
        self.tell(xid, "cancel", self.http.post(format!("{}/{xid}/cancel", self.trips_url))).await
    }

    /// Asks the coordinator itself.
    pub(super) async fn ask_coordinator(&self, xid: Uuid) -> Told {
        self.tell(xid, "coordinator", self.http.get(format!("{}/{xid}", self.coordinator_url))).await
    }

    async fn tell(&self, xid: Uuid, whom: &'static str, request: reqwest::RequestBuilder) -> Told {
        let (told, booked) = told(request).await.unwrap_or((Told::Unknown, None));
        let mut all = self.heard.lock().unwrap();
        let heard = all.entry(xid).or_default();
        heard.told.push((whom, told));
        heard.booked.extend(booked);
        told
    }
}

/// The outcome in an answer of either interface. Whatever is not clear is no outcome.
async fn told(request: reqwest::RequestBuilder) -> anyhow::Result<(Told, Option<Booked>)> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let answer: Value = answer.json().await?;
    let outcome = answer["outcome"].as_str().or(answer["decision"].as_str());
    let told = match outcome.context("no outcome")? {
        "booked" | "commit" => Told::Booked,
        "turned_back" | "abort" => Told::TurnedBack,
        _ => Told::Unknown,
    };
    // The answer's status says the same as its body.
    ensure!(told != Told::Booked || status < 300, "{status}: {answer}");
    let number = |what: &str| answer["booked"][what].as_i64();
    let booked = number("seat").zip(number("room")).zip(number("car"));
    Ok((told, booked.map(|((seat, room), car)| (seat, room, car))))
}
