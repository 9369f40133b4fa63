//! The limits that hold everywhere, each with its reason.

use std::time::Duration;

/// Hard limits of the protocol. Configuration may lower some of them, never raise them.
#[derive(Debug, Clone, Copy)]
pub struct Limits;

impl Limits {
    /// Names, branch keys and operation names: long enough for a path-like name, short enough to
    /// index and to print.
    pub const NAME_BYTES_MAX: usize = 128;
    /// A branch's payload: what a hook needs to know, not a document store.
    pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
    /// A gRPC message or HTTP body: one payload and its envelope, several times over.
    pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// Branches of one transaction. The decision's block lists them all.
    pub const BRANCHES_MAX: usize = 10_000;
    /// A target's URL or address.
    pub const TARGET_BYTES_MAX: usize = 2_048;
    /// What is kept of an error's text: the log and the pages hold it.
    pub const ERROR_BYTES_MAX: usize = 1_024;
    /// An operator's reason for an action.
    pub const REASON_BYTES_MAX: usize = 1_024;
    /// Xids in one inquiry (protocol M21).
    pub const INQUIRY_XIDS_MAX: usize = 1_000;
    /// The timeout of a transaction whose TM gave none.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
    /// The longest timeout: a month. What needs longer is a process, not a transaction.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(31 * 24 * 3_600);
    /// How long a commit waits for a branch that it names and that is not registered yet
    /// (protocol 1.3).
    pub const BRANCH_MISSING_WAIT: Duration = Duration::from_secs(1);
    /// Steps of a saga: a plan is read by people.
    pub const STEPS_MAX: usize = 1_000;
    /// Deliveries of one message.
    pub const DELIVERIES_MAX: usize = 100;
    /// A step's result: what later steps need to know. Every step after it gets it.
    pub const RESULT_BYTES_MAX: usize = 64 * 1024;
    /// Payloads and targets of one plan together: it is one entry in the log.
    pub const PLAN_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// What the steps of one saga may bring together. Each later step receives it all.
    pub const RESULTS_BYTES_MAX: usize = 1024 * 1024;
    /// How long the prepares may take, if the transaction's own deadline is not sooner: prepared branches
    /// hold locks. Shorter than a call waits for its answer, so that its caller hears how it ended.
    pub const PREPARE_WAIT: Duration = Duration::from_secs(20);
    /// The longest time that one attempt of an operation may take.
    pub const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(600);
    /// Lock keys of one branch: each is a forced write of its own.
    pub const LOCK_KEYS_MAX: usize = 16;
    /// How long a registration may wait for a lock.
    pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(30);
}
