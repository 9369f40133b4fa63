//! How long a partition answers nothing: callers that decide one transaction after the other, each in a partition of its
//! own, and write down when they were answered.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use unanimity_sdk::{Client, Xid};
use unanimity_types::partition_of;
use uuid::Uuid;

use super::PARTITIONS;

/// Between two transactions in one partition: how exact the gaps are.
const PAUSE: Duration = Duration::from_millis(20);

/// The answers of each partition.
#[derive(Debug)]
pub(super) struct Pumps {
    answers: Vec<Mutex<Vec<Instant>>>,
    stop: CancellationToken,
}

impl Pumps {
    /// Starts a caller in each partition.
    pub(super) fn start(client: &Client) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let answers = (0..PARTITIONS).map(|_| Mutex::default()).collect();
        let pumps = Arc::new(Self { answers, stop: CancellationToken::new() });
        let pump = |partition: u16| {
            let (pumps, client) = (Arc::clone(&pumps), client.clone());
            tokio::spawn(async move {
                while !pumps.stop.is_cancelled() {
                    if decide(&client, partition).await {
                        pumps.answers[usize::from(partition)].lock().unwrap().push(Instant::now());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        let tasks = (0..PARTITIONS).map(pump).collect();
        (pumps, tasks)
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// The first answer of a partition after this moment.
    pub(super) fn first_after(&self, partition: u16, moment: Instant) -> Option<Instant> {
        let answers = self.answers[usize::from(partition)].lock().unwrap();
        answers.iter().find(|answer| **answer > moment).copied()
    }

    /// How long a partition answered nothing around this moment: from the last answer before it to the first after.
    pub(super) fn gap(&self, partition: u16, moment: Instant) -> Option<Duration> {
        let after = self.first_after(partition, moment)?;
        let answers = self.answers[usize::from(partition)].lock().unwrap();
        let before = answers.iter().rev().find(|answer| **answer <= moment)?;
        Some(after - *before)
    }
}

/// Begins and commits, by calls; whether both were answered.
async fn decide(client: &Client, partition: u16) -> bool {
    let xid = std::iter::repeat_with(|| Xid::new(Uuid::new_v4()))
        .find(|xid| partition_of(*xid, PARTITIONS).0 == partition)
        .expect("one of sixteen");
    let Ok(tx) = client.transaction("pump").xid(xid).begin().await else { return false };
    tx.commit().await.is_ok()
}
