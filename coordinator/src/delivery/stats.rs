//! What delivery tells about itself: a snapshot for the API and for metrics.

/// What kind of targets share a bulkhead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BulkheadKind {
    /// Attached instances of one participant.
    Participant,
    /// gRPC callbacks at one address.
    Grpc,
    /// HTTP callbacks at one origin.
    Http,
}

impl BulkheadKind {
    /// The kind's word, for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Participant => "participant",
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// How one bulkhead is. Counters start with the bulkhead; an idle one is removed after a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkheadStats {
    /// What kind.
    pub kind: BulkheadKind,
    /// The participant's name, or the origin.
    pub name: String,
    /// Calls that wait.
    pub queued: usize,
    /// Calls that are out.
    pub in_flight: usize,
    /// Calls that were done.
    pub done: u64,
    /// Calls that were refused, unusable or of unknown outcome.
    pub failed: u64,
    /// The attached instances; empty for callbacks.
    pub instances: Vec<InstanceStats>,
}

/// How one attached instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceStats {
    /// Its name.
    pub instance: String,
    /// Its SDK's name and version.
    pub sdk: String,
    /// Operations in its hand.
    pub in_flight: usize,
    /// How many it takes at once.
    pub concurrency: usize,
    /// Whether it said goodbye and only finishes.
    pub draining: bool,
}
