//! What a branch may be registered with.

use std::time::Duration;

use unanimity_types::{ErrorCode, Limits};

use crate::error::ClientError;

/// How a branch is registered: a label, lock keys.
///
/// **Lock keys** keep other transactions from working on the same thing while this one is open: two
/// branches with the same key (`inventory:sku-7`) of different transactions cannot both be registered
/// until one of the transactions is finished. They are the coordinator's, survive its crashes, and are
/// freed when every branch of the holder is settled. Nobody waits for ever: a conflict is the error
/// [`crate::ClientError::LockConflict`] after the time that is allowed.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")] mod example {
/// use std::time::Duration;
/// use unanimity_sdk::{BranchOptions, Participant, TccHooks, TryError};
///
/// async fn reserve<H: TccHooks<sqlx::Sqlite, Payload = u32>>(
///     inventory: &Participant<sqlx::Sqlite>,
/// ) -> Result<H::Output, TryError> {
///     let options = BranchOptions::new().lock_keys(["inventory:sku-7"]).lock_wait(Duration::from_secs(2));
///     inventory.try_with::<H>(options, 3).await
/// }
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "it is for try_with"]
pub struct BranchOptions {
    pub(super) label: Option<String>,
    pub(super) lock_keys: Vec<String>,
    lock_wait: Duration,
}

impl BranchOptions {
    /// Nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells the branch apart from others of the same call: see [`crate::Participant::try_labelled`].
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Locks to take for the transaction before the branch is registered: at most 16, each of 1 to 128
    /// bytes.
    pub fn lock_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.lock_keys.extend(keys.into_iter().map(Into::into));
        self
    }

    /// How long to wait for a lock that another transaction holds: at most 30 s; not at all if not set.
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// What the coordinator would refuse.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        let invalid = |message: String| ClientError::Invalid { code: ErrorCode::InvalidRequest, message };
        if self.lock_keys.len() > Limits::LOCK_KEYS_MAX {
            return Err(invalid(format!("a branch has at most {} lock keys", Limits::LOCK_KEYS_MAX)));
        }
        if let Some(wrong) =
            self.lock_keys.iter().find(|key| unanimity_types::Name::new(key.as_str()).is_err())
        {
            let shown: String = wrong.chars().take(128).collect();
            return Err(invalid(format!(
                "{shown:?} is no lock key: 1 to 128 bytes without control characters"
            )));
        }
        if self.lock_wait > Limits::LOCK_WAIT_MAX {
            return Err(invalid(format!("a lock is waited for at most {:?}", Limits::LOCK_WAIT_MAX)));
        }
        Ok(())
    }

    /// The wait for the wire: never longer than the transaction lives.
    pub(super) fn lock_wait_ms(&self, left: Duration) -> u64 {
        u64::try_from(self.lock_wait.min(left).as_millis()).unwrap_or(u64::MAX)
    }
}
