//! How a run fails.

/// An option that is out of its bounds, or does not go with another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(pub(crate) String);

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was asked wrongly.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The coordinator does not answer, or its partitions do not run.
    #[error("the coordinator at {url} cannot be measured: {why}")]
    Coordinator {
        /// Where it was looked for.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// One of the processes that the bench starts did not do its part.
    #[error("{process}: {why}")]
    Worker {
        /// Which one.
        process: String,
        /// What is wrong.
        why: String,
    },
    /// The participants' database cannot be used.
    #[error("the participants' database cannot be used: {0}")]
    Database(String),
    /// The participants cannot listen, or not attach.
    #[error("the participants cannot start: {0}")]
    Participants(String),
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] unanimity_sdk::ClientError),
}
