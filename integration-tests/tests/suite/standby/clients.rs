//! Clients who begin and decide, and remember every answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{bail, ensure};
use integration_tests::wait::{http_client, until};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

const CLIENTS: usize = 8;
/// A failover on a busy machine, and the appends that were under way.
const LIMIT: Duration = Duration::from_secs(120);

/// What a client knows of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nobody answered.
    Nothing,
    /// `committed` or `aborted`, as it was answered.
    Outcome(String),
}

/// Everything that was answered.
#[derive(Debug, Default)]
struct Record {
    known: BTreeMap<Uuid, Known>,
    /// The last place of each partition that an answer carried.
    positions: BTreeMap<u64, Value>,
    acknowledged: usize,
}

/// Running clients.
#[derive(Debug)]
pub(crate) struct Clients {
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
    http: reqwest::Client,
    url: String,
}

impl Clients {
    /// Starts them against the coordinator at `url`.
    pub(crate) fn start(url: &str) -> anyhow::Result<Self> {
        let (record, stop) = (Arc::<Mutex<Record>>::default(), Arc::<AtomicBool>::default());
        let http = http_client(Duration::from_secs(10))?;
        let tasks = (0..CLIENTS).map(|_| {
            let (record, stop, http, url) =
                (Arc::clone(&record), Arc::clone(&stop), http.clone(), url.to_owned());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    one(&http, &url, &record).await?;
                }
                Ok(())
            })
        });
        let tasks = tasks.collect();
        Ok(Self { record, stop, tasks, http, url: url.to_owned() })
    }

    /// Waits until so many more outcomes were acknowledged.
    pub(crate) async fn more(&self, count: usize) -> anyhow::Result<()> {
        let before = self.acknowledged();
        until("clients get on", LIMIT, async || {
            let now = self.acknowledged();
            ensure!(now >= before + count, "{} more outcomes", now - before);
            Ok(())
        })
        .await
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.record.lock().expect("no holder panics").acknowledged
    }

    /// The highest places that answers showed.
    pub(super) fn witnesses(&self) -> Vec<Value> {
        self.record.lock().expect("no holder panics").positions.values().cloned().collect()
    }

    /// Ends them. What is not known is settled by asking for an abort; then every transaction must be what it was
    /// said to be. Answers how many outcomes there are.
    pub(crate) async fn verify(self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        let known = self.record.lock().expect("no holder panics").known.clone();
        for (xid, known) in &known {
            let path = format!("{}/v1/transactions/{xid}", self.url);
            if *known == Known::Nothing {
                let (status, answer) = post(&self.http, &format!("{path}/abort"), &json!({})).await?;
                ensure!(matches!(status, 200 | 409), "{xid}: {status}: {answer}");
                continue;
            }
            let answer = self.http.get(&path).send().await?;
            let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await?);
            let Known::Outcome(outcome) = known else { continue };
            // Decided and answered; its end may still be written.
            let now = body["status"].as_str().unwrap_or_default();
            let is = now.replace("committing", "committed").replace("aborting", "aborted");
            ensure!(
                status == 200 && is == *outcome,
                "I3: {xid} was answered {outcome}, and is {status}: {body}"
            );
        }
        Ok(known.len())
    }
}

/// One transaction: begun, then committed or aborted.
async fn one(http: &reqwest::Client, url: &str, record: &Mutex<Record>) -> anyhow::Result<()> {
    let xid = Uuid::new_v4();
    record.lock().expect("no holder panics").known.insert(xid, Known::Nothing);
    let body = json!({ "mode": "tcc", "xid": xid, "timeout_ms": 600_000 });
    let Ok((201, begun)) = post(http, &format!("{url}/v1/transactions"), &body).await else {
        return pause().await;
    };
    let wanted = if xid.as_bytes()[0].is_multiple_of(3) { "abort" } else { "commit" };
    let decided = post(http, &format!("{url}/v1/transactions/{xid}/{wanted}"), &json!({})).await;
    let Ok((status, answer)) = decided else { return pause().await };
    let outcome = match (status, answer["status"].as_str().unwrap_or_default()) {
        (200, "committed" | "committing") => "committed",
        (200, "aborted" | "aborting") => "aborted",
        // Not taken, or not known.
        (503 | 504, _) => return pause().await,
        _ => bail!("{wanted} of {xid}: {status}: {answer}"),
    };
    record.lock().expect("no holder panics").acknowledge(xid, outcome, [&begun, &answer]);
    Ok(())
}

impl Record {
    fn acknowledge(&mut self, xid: Uuid, outcome: &str, answers: [&Value; 2]) {
        for answer in answers {
            if let Some(partition) = answer["position"]["partition"].as_u64() {
                self.positions.insert(partition, answer["position"].clone());
            }
        }
        self.known.insert(xid, Known::Outcome(outcome.to_owned()));
        self.acknowledged += 1;
    }
}

/// Nobody answers at the moment.
async fn pause() -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(())
}

async fn post(http: &reqwest::Client, url: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    let answer = http.post(url).json(body).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}
