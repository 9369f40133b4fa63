//! What the engine can be told.

use std::time::Duration;

use unanimity_core::{Context, RetryPolicy};
use unanimity_types::{Timestamp, Xid};

use crate::log::AgreedFormat;

/// The engine's settings. The defaults suit one node with a database nearby.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// This node's name: a lease that was held under the same name is taken back at once.
    pub node: String,
    /// This node's address, for people and for other nodes.
    pub address: String,
    /// How long a lease lasts. A node that dies is replaced after so long.
    pub lease: Duration,
    /// When operations are tried again.
    pub retry: RetryPolicy,
    /// How long delivery waits for the answer to one attempt; what an earlier owner sent may run so long
    /// (protocol H3).
    pub call_timeout: Duration,
    /// Commands that may wait in a partition's mailbox.
    pub mailbox_max: usize,
    /// Bytes of payloads that may wait in a partition's mailbox.
    pub mailbox_bytes_max: usize,
    /// Bytes of events that may wait for the next block; then the mailbox is not read.
    pub building_bytes_max: usize,
    /// Transactions that a partition may hold in memory.
    pub open_max: usize,
    /// Bytes of events that a partition's open transactions may have; beyond it nothing begins or
    /// registers.
    pub live_bytes_max: u64,
    /// Cleaning re-appends what is open when dead bytes exceed live bytes by so many (protocol M8).
    pub clean_bytes: u64,
    /// The log is trimmed when at least so many blocks are over.
    pub trim_blocks: u64,
    /// Locks whose home a partition may be.
    pub locks_max: usize,
    /// Registrations that may wait in a partition for a lock.
    pub lock_waiters_max: usize,
    /// After how long a lock's home asks whether its holder is over, and again.
    pub lock_ask_after: Duration,
    /// How often history is written, unless there is enough for a whole batch: few large writes cost the
    /// database a fraction of many small ones.
    pub project_every: Duration,
    /// Open transactions older than this get a row in history too.
    pub project_open_after: Duration,
    /// The format that the log's blocks are written in: raised when every node of the cluster reads a newer one.
    pub format: AgreedFormat,
    /// How long history keeps what is over.
    pub history_retention: Duration,
}

/// What the core is told of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    retry: RetryPolicy,
    lease: Duration,
    call_timeout: Duration,
}

impl Timing {
    /// For one look at one transaction.
    pub(super) fn context(self, xid: Xid, now: Timestamp) -> Context {
        let Self { retry, lease, call_timeout } = self;
        Context { xid, now, retry, lease, call_timeout }
    }
}

impl EngineConfig {
    pub(super) fn timing(&self) -> Timing {
        Timing { retry: self.retry, lease: self.lease, call_timeout: self.call_timeout }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            node: "node".to_owned(),
            address: String::new(),
            lease: Duration::from_secs(6),
            retry: RetryPolicy::default(),
            call_timeout: Duration::from_secs(10),
            // A few round trips' worth of the fastest caller.
            mailbox_max: 8_192,
            // Sixteen of the largest payloads at once, or thousands of ordinary ones.
            mailbox_bytes_max: 16 * 1024 * 1024,
            building_bytes_max: 4 * 1024 * 1024,
            open_max: 2_000_000,
            live_bytes_max: 1024 * 1024 * 1024,
            clean_bytes: 64 * 1024 * 1024,
            trim_blocks: 256,
            // About 300 bytes each, in memory and in the log.
            locks_max: 500_000,
            // Each is a request that somebody keeps open.
            lock_waiters_max: 10_000,
            lock_ask_after: Duration::from_secs(5),
            project_every: Duration::from_millis(500),
            project_open_after: Duration::from_secs(1),
            format: AgreedFormat::default(),
            history_retention: Duration::from_secs(30 * 24 * 3_600),
        }
    }
}
