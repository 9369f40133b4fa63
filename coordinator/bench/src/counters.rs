//! What the coordinator counts of itself: `GetInfo`, before and after.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;

use crate::error::Error;

/// How long the coordinator may take to answer: it may be busy.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Asks a coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    url: String,
    /// None: what is measured is another product, and counts nothing that we know.
    client: Option<CoordinatorClient<Channel>>,
}

/// A coordinator's counters at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) version: String,
    pub(crate) partitions: u32,
    pub(crate) open: u64,
    /// CPU time of its process in microseconds, if it says.
    pub(crate) cpu_us: Option<u64>,
    /// Sums over the partitions, if it counts.
    pub(crate) counters: Option<v1::PartitionCounters>,
}

impl Observer {
    pub(crate) async fn connect(url: &str) -> Result<Self, Error> {
        let failed = |why: String| Error::Coordinator { url: url.to_owned(), why };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| failed(error.to_string()))?;
        let endpoint = endpoint.connect_timeout(ANSWER_MAX).timeout(ANSWER_MAX);
        let channel = endpoint.connect().await.map_err(|error| failed(innermost(&error)))?;
        Ok(Self { url: url.to_owned(), client: Some(CoordinatorClient::new(channel)) })
    }

    /// Of a product that has no such counters: it is seen from outside alone.
    pub(crate) fn of_a_stranger(url: &str) -> Self {
        Self { url: url.to_owned(), client: None }
    }

    /// Asks for everything that it counts.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, Error> {
        let Some(client) = &self.client else { return Ok(Snapshot::default()) };
        let answer = client.clone().get_info(v1::GetInfoRequest {}).await;
        let info = answer.map_err(|status| self.failed(status.message()))?.into_inner();
        if let Some(partition) = info.partition_states.iter().find(|state| state.state != "running") {
            return Err(self.failed(&format!("its partition {} is {}", partition.partition, partition.state)));
        }
        Ok(of(info))
    }

    fn failed(&self, why: &str) -> Error {
        Error::Coordinator { url: self.url.clone(), why: why.to_owned() }
    }
}

fn of(info: v1::Info) -> Snapshot {
    let all: Option<Vec<_>> = info.partition_states.iter().map(|state| state.counters).collect();
    let counters = all
        .filter(|all| !all.is_empty())
        .map(|all| all.into_iter().fold(v1::PartitionCounters::default(), plus));
    Snapshot {
        open: info.partition_states.iter().map(|state| state.open_transactions).sum(),
        cpu_us: info.process.map(|process| process.cpu_us).filter(|cpu_us| *cpu_us > 0),
        counters,
        version: info.version,
        partitions: info.partitions,
    }
}

fn plus(one: v1::PartitionCounters, other: v1::PartitionCounters) -> v1::PartitionCounters {
    combine(one, other, u64::saturating_add)
}

/// What came between two looks. The node may have started again: then it is less, and counts as nothing.
pub(crate) fn minus(after: v1::PartitionCounters, before: v1::PartitionCounters) -> v1::PartitionCounters {
    combine(after, before, u64::saturating_sub)
}

fn combine(
    one: v1::PartitionCounters,
    other: v1::PartitionCounters,
    with: fn(u64, u64) -> u64,
) -> v1::PartitionCounters {
    v1::PartitionCounters {
        begun: with(one.begun, other.begun),
        committed: with(one.committed, other.committed),
        aborted: with(one.aborted, other.aborted),
        finished: with(one.finished, other.finished),
        events: with(one.events, other.events),
        blocks: with(one.blocks, other.blocks),
        block_bytes: with(one.block_bytes, other.block_bytes),
        rewritten_bytes: with(one.rewritten_bytes, other.rewritten_bytes),
        held_answers: with(one.held_answers, other.held_answers),
        history_rows: with(one.history_rows, other.history_rows),
        history_bytes: with(one.history_bytes, other.history_bytes),
    }
}

/// The innermost error says what happened; the outer ones say "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
