//! Clients who order transfers, and who ask what became of them when no answer came.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_sdk::Xid;
use uuid::Uuid;

use crate::services::http_client;
use crate::teller::{Answer, Outcome, Transfer};

/// How long a client asks what became of a transfer.
const ASK_MAX: Duration = Duration::from_secs(60);
/// The pause before a client asks again.
const PAUSE: Duration = Duration::from_millis(200);

/// A transfer, and what its client heard in the end.
#[derive(Debug, Clone)]
pub struct TransferStory {
    /// What was wanted.
    pub transfer: Transfer,
    /// How it ended, as its client heard it.
    pub outcome: Outcome,
    /// Why, if the money did not move.
    pub reason: String,
    /// Whether the client had to ask again, since at first nobody knew.
    pub was_unknown: bool,
}

#[derive(Debug)]
pub(super) struct Clients {
    http: reqwest::Client,
    url: String,
    transfers: Vec<Transfer>,
    concurrency: usize,
    answered: Arc<watch::Sender<u32>>,
}

impl Clients {
    pub(super) fn new(teller_url: &str, transfers: Vec<Transfer>, concurrency: u32) -> anyhow::Result<Self> {
        Ok(Self {
            http: http_client()?,
            url: format!("{teller_url}/transfers"),
            transfers,
            concurrency: concurrency.try_into()?,
            answered: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Counts the transfers that were answered.
    pub(super) fn progress(&self) -> watch::Receiver<u32> {
        self.answered.subscribe()
    }

    /// Orders all transfers, so many at a time.
    pub(super) async fn run(&self) -> Vec<TransferStory> {
        let stories = stream::iter(&self.transfers).map(|transfer| async {
            let story = self.order(transfer).await;
            self.answered.send_modify(|count| *count += 1);
            story
        });
        stories.buffered(self.concurrency).collect().await
    }

    /// Orders one transfer. No answer, or "unknown", is neither yes nor no: the client lets it be settled until
    /// somebody knows.
    async fn order(&self, transfer: &Transfer) -> TransferStory {
        let end = Instant::now() + ASK_MAX;
        let id = transfer.id.unwrap_or_default();
        let mut last = answer(self.http.post(&self.url).json(transfer)).await;
        let was_unknown = last.outcome == Outcome::Unknown;
        while last.outcome == Outcome::Unknown && Instant::now() < end {
            tokio::time::sleep(PAUSE).await;
            last = answer(self.http.post(format!("{}/{id}/settle", self.url))).await;
        }
        let reason = last.reason.unwrap_or_default();
        TransferStory { transfer: transfer.clone(), outcome: last.outcome, reason, was_unknown }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let known = match request.send().await {
        Ok(answer) => answer.json::<Answer>().await.ok(),
        Err(_) => None,
    };
    let nothing = || Answer {
        id: Xid::new(Uuid::nil()),
        outcome: Outcome::Unknown,
        reason: Some("no answer".to_owned()),
    };
    known.unwrap_or_else(nothing)
}

/// Clients who were told something else than what the databases say.
pub(super) fn contradictions(stories: &[TransferStory], whole: &[Uuid]) -> Vec<String> {
    let whole: HashSet<&Uuid> = whole.iter().collect();
    let mut found = Vec::new();
    for TransferStory { transfer, outcome, .. } in stories {
        let id = transfer.id.unwrap_or_default();
        match (outcome, whole.contains(&id)) {
            (Outcome::Committed, true) | (Outcome::Aborted, false) | (Outcome::Unknown, _) => {}
            (outcome, moved) => {
                let moved = if moved { "moved" } else { "did not move" };
                found.push(format!("transfer {id}: its client heard {outcome:?}, the money {moved}"));
            }
        }
    }
    found
}
