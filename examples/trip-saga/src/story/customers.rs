//! Customers who book trips, and who send the same again when no answer came.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::stack::Stack;
use crate::agency::{Answer, NewTrip, Outcome};
use crate::services::http_client;

/// How long a customer asks what became of a trip.
const ASK_MAX: Duration = Duration::from_secs(60);
/// The pause before a customer sends the same again.
const PAUSE: Duration = Duration::from_millis(200);

/// A trip, and what its customer heard in the end.
#[derive(Debug, Clone)]
pub struct TripStory {
    /// What was wanted.
    pub trip: NewTrip,
    /// How it ended, as its customer heard it.
    pub outcome: Outcome,
    /// Why, if it is not booked.
    pub reason: String,
    /// Whether the customer had to ask again, since at first nobody knew.
    pub was_unknown: bool,
}

#[derive(Debug)]
pub(super) struct Customers {
    http: reqwest::Client,
    url: String,
    trips: Vec<NewTrip>,
    concurrency: usize,
    answered: Arc<watch::Sender<u32>>,
}

impl Customers {
    pub(super) fn new(agency_url: &str, trips: Vec<NewTrip>, concurrency: u32) -> anyhow::Result<Self> {
        Ok(Self {
            http: http_client()?,
            url: format!("{agency_url}/trips"),
            trips,
            concurrency: concurrency.try_into()?,
            answered: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Counts the trips that were answered.
    pub(super) fn progress(&self) -> watch::Receiver<u32> {
        self.answered.subscribe()
    }

    /// Books all trips, so many at a time.
    pub(super) async fn run(&self) -> Vec<TripStory> {
        let stories = stream::iter(&self.trips).map(|trip| async {
            let story = self.book(trip).await;
            self.answered.send_modify(|count| *count += 1);
            story
        });
        stories.buffered(self.concurrency).collect().await
    }

    /// Books one trip. No answer, or "unknown", is neither yes nor no: the same is sent again, under the same
    /// id, until somebody knows. It travels once.
    pub(super) async fn book(&self, trip: &NewTrip) -> TripStory {
        let end = Instant::now() + ASK_MAX;
        let mut was_unknown = false;
        loop {
            let last = match self.http.post(&self.url).json(trip).send().await {
                Ok(answer) => answer.json::<Answer>().await.ok(),
                Err(_) => None,
            };
            let (outcome, reason) = match last {
                Some(answer) => (answer.outcome, answer.reason.unwrap_or_default()),
                None => (Outcome::Unknown, "no answer".to_owned()),
            };
            if outcome != Outcome::Unknown || Instant::now() >= end {
                return TripStory { trip: trip.clone(), outcome, reason, was_unknown };
            }
            was_unknown = true;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Customers who were told something else than what the coordinator says in the end.
pub(super) async fn contradictions(stories: &[TripStory], stack: &Stack) -> anyhow::Result<Vec<String>> {
    let http = http_client()?;
    let mut found = Vec::new();
    for TripStory { trip, outcome, .. } in stories {
        let id = trip.id.unwrap_or_default();
        let answer = http.get(format!("{}/trips/{id}", stack.agency_url())).send().await?;
        let truth = answer.json::<Answer>().await.map_or(Outcome::Unknown, |answer| answer.outcome);
        if *outcome != Outcome::Unknown && *outcome != truth {
            found.push(format!("trip {id}: its customer heard {outcome:?}, it is {truth:?}"));
        }
    }
    Ok(found)
}
