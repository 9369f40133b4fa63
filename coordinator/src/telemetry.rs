//! What the node says about itself: log lines and metrics.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::engine::{Coordinator, PartitionState};

/// Sends log lines to stderr: stdout belongs to a command's answer.
///
/// # Errors
/// If the level is none, or somebody set a subscriber before.
pub fn init(log: &Log) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(&log.level).map_err(|error| format!("log.level {:?}: {error}", log.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Colours are for eyes, not for files.
        .with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|error| format!("log lines go elsewhere already: {error}"))
}

/// From a fast local answer to a long poll.
const DURATION_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    partition: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionStateLabels {
    partition: u16,
    state: String,
}

/// The node's metrics in the OpenMetrics text format. Other modules add theirs by
/// [`Metrics::register`].
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    open: Family<PartitionLabels, Gauge>,
    states: Family<PartitionStateLabels, Gauge>,
    epochs: Family<PartitionLabels, Gauge>,
    blocks: Family<PartitionLabels, Gauge>,
}

/// The metrics of one route with one code.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    requests: Counter,
    durations: Histogram,
}

impl RouteMetrics {
    /// Counts an answered request.
    pub(crate) fn answered(&self, took: Duration) {
        self.requests.inc();
        self.durations.observe(took.as_secs_f64());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("unanimity");
        let requests = Family::default();
        let durations =
            Family::new_with_constructor((|| Histogram::new(DURATION_BUCKETS)) as fn() -> Histogram);
        let open = Family::default();
        let states = Family::default();
        let epochs = Family::default();
        let blocks = Family::default();
        registry.register("requests", "Requests answered, by route and code", requests.clone());
        registry.register("request_duration_seconds", "Time to an answer, by route", durations.clone());
        registry.register("open_transactions", "Transactions in memory, by partition", open.clone());
        registry.register("partition_state", "1 for the state that a partition is in", states.clone());
        registry.register("log_epoch", "Epoch of the last durable block, by partition", epochs.clone());
        registry.register("log_block", "Number of the last durable block, by partition", blocks.clone());
        Self { registry: Mutex::new(registry), requests, durations, open, states, epochs, blocks }
    }
}

impl Metrics {
    /// Lets another module add metrics of its own. Labels must have few values: a route, a partition,
    /// a participant; never an xid.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts an answered request. `route` is a pattern, never a path with an xid in it.
    pub fn request(&self, route: &str, code: &str, took: Duration) {
        let labels = RequestLabels { route: route.to_owned(), code: code.to_owned() };
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&RouteLabels { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// Where answers of one route with one code are counted, for those that have many: looked up once.
    #[must_use]
    pub(crate) fn route(&self, route: &str, code: &str) -> RouteMetrics {
        let labels = RequestLabels { route: route.to_owned(), code: code.to_owned() };
        RouteMetrics {
            requests: self.requests.get_or_create(&labels).clone(),
            durations: self.durations.get_or_create(&RouteLabels { route: route.to_owned() }).clone(),
        }
    }

    /// All metrics as text, partitions as they are now.
    #[must_use]
    pub fn encode(&self, coordinator: &Coordinator) -> String {
        // States that a partition left must not linger.
        self.states.clear();
        for info in coordinator.info().states {
            let partition = info.partition.0;
            let open = i64::try_from(info.open).unwrap_or(i64::MAX);
            self.open.get_or_create(&PartitionLabels { partition }).set(open);
            if let Some(position) = info.position {
                let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
                self.epochs.get_or_create(&PartitionLabels { partition }).set(number(position.epoch.0));
                self.blocks.get_or_create(&PartitionLabels { partition }).set(number(position.seq.0));
            }
            let state = state_word(&info.state).to_owned();
            self.states.get_or_create(&PartitionStateLabels { partition, state }).set(1);
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string fails only if a metric of ours says so.
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }
}

/// The one word for a partition's state, the same in JSON, gRPC and metrics.
#[must_use]
pub fn state_word(state: &PartitionState) -> &'static str {
    match state {
        PartitionState::Waiting(_) => "waiting",
        PartitionState::Recovering => "recovering",
        PartitionState::Running => "running",
        PartitionState::Unavailable(_) => "unavailable",
        PartitionState::Stopped(_) => "stopped",
        PartitionState::Closed => "closed",
    }
}

/// Why a partition does not run; empty if it does.
#[must_use]
pub fn state_detail(state: &PartitionState) -> &str {
    use crate::engine::StopReason;
    match state {
        PartitionState::Running | PartitionState::Recovering | PartitionState::Closed => "",
        PartitionState::Waiting(why)
        | PartitionState::Unavailable(why)
        | PartitionState::Stopped(
            StopReason::LostTail(why) | StopReason::Damaged(why) | StopReason::Unreadable(why),
        ) => why,
    }
}
