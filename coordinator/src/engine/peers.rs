//! The way to partitions that other nodes own, as the engine needs it.
//!
//! The engine knows its own partitions only. Locks have their home in a partition that may live elsewhere, whoever
//! asks about branches in doubt asks about many partitions at once, and a witness speaks about any of them. What an
//! owner does for other nodes' engines are the methods of [`Coordinator`] whose names end in `_here`: they are
//! answered by this node's own partitions or refused.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use unanimity_types::{LogPosition, Name, PartitionId, Xid};

use super::error::Error;
use super::handle::{ANSWER_WAIT_MAX, Coordinator, Partition};
use super::inquire;
use super::list;
use super::locks;
use super::mailbox::Mail;
use super::refuse::not_owned;
use super::request::{Asked, Inquiry, ListFilter, PartitionState, TransactionView};

/// What the other nodes had to say to a list.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// Open transactions of their partitions, without branches and timelines.
    pub transactions: Vec<TransactionView>,
    /// The nodes that did not answer.
    pub missing: Vec<String>,
}

/// Other nodes. Every call has an end of its own, a matter of seconds beyond the time that it is given; and each may be
/// repeated, because the owner takes it as the same (protocol M3).
pub trait Peers: std::fmt::Debug + Send + Sync + 'static {
    /// Takes a lock at its home for a transaction, durably, as [`Coordinator::lock_here`] does there.
    fn lock<'a>(
        &'a self,
        home: PartitionId,
        key: &'a Name,
        xid: Xid,
        wait: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Tells a home that a transaction is over. A home that does not hear it asks by itself.
    fn unlock(&self, home: PartitionId, xid: Xid, keys: Vec<Name>) -> BoxFuture<'_, ()>;

    /// Asks a partition's owner what became of its transactions, waiting so long for an owner and its answer.
    fn inquire(
        &self,
        partition: PartitionId,
        asked: Vec<Asked>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<Inquiry>, Error>>;

    /// Shows witnesses to the owners of their partitions. Those of owners that are away are dropped: who saw them
    /// shows them again. An error says that a log lost its tail, or is not ours.
    fn witness(&self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<(), Error>>;

    /// Something about the cluster changed: the node at this address, or every one, this included, is to look now.
    /// Best effort, and without a wait: a node that is not told finds out at its next look. Where nodes are not told of one another that is all there is.
    fn look(&self, whom: Option<&str>) {
        let _ = whom;
    }

    /// The open transactions of all other living nodes that a list asks for, the newest of each.
    fn open(&self, filter: ListFilter) -> BoxFuture<'_, Elsewhere>;
}

impl Coordinator {
    /// Takes a lock whose home is here, waiting so long for its holder. The same transaction again counts.
    ///
    /// # Errors
    /// `lock_conflict`, `too_busy`, `not_owner` if the partition does not live here, or the engine's state.
    pub async fn lock_here(
        &self,
        home: PartitionId,
        key: Name,
        xid: Xid,
        wait: Duration,
    ) -> Result<(), Error> {
        let home = self.own(home)?;
        let (reply, answer) = oneshot::channel();
        self.send(home, Mail::Lock { key, xid, wait, reply })?;
        self.answer(home, answer, wait + locks::ANSWER_WAIT).await?
    }

    /// A transaction is over, and so are its locks whose home is here.
    ///
    /// # Errors
    /// `not_owner`, or the engine's state: the home asks by itself.
    pub fn unlock_here(&self, home: PartitionId, xid: Xid, keys: Vec<Name>) -> Result<(), Error> {
        self.send(self.own(home)?, Mail::Unlock { xid, keys })
    }

    /// What became of transactions of a partition that lives here. Unknown ones are aborted by asking (protocol C2).
    ///
    /// # Errors
    /// `not_owner`, also for an xid of another partition, or the engine's state.
    pub async fn inquire_here(
        &self,
        partition: PartitionId,
        asked: Vec<Asked>,
    ) -> Result<Vec<Inquiry>, Error> {
        self.own(partition)?;
        for asked in &asked {
            if self.partition(asked.xid)?.id != partition {
                return Err(not_owned(partition).about(asked.xid));
            }
        }
        inquire::ask(self, asked).await
    }

    /// Shows a witness to a partition that lives here.
    ///
    /// # Errors
    /// `log_lost_tail` if the log cannot have had the place, `not_owner`, or the engine's state.
    pub async fn witness_here(&self, position: LogPosition) -> Result<(), Error> {
        let partition = self.own(position.partition)?;
        let (reply, answer) = oneshot::channel();
        self.send(partition, Mail::Witness { position, reply })?;
        self.answer(partition, answer, ANSWER_WAIT_MAX).await?
    }

    /// The newest open transactions of the partitions that live here, as a list asks for them: what is older than
    /// the filter's `after`, without regard to its `older_than`.
    ///
    /// # Errors
    /// `unavailable` if a partition does not answer.
    pub async fn open_here(&self, filter: &ListFilter) -> Result<Vec<TransactionView>, Error> {
        list::open_here(self, filter).await
    }

    /// How a partition is here; `None` if the log has none of that number.
    #[must_use]
    pub fn state_of(&self, partition: PartitionId) -> Option<PartitionState> {
        Some(self.shared.partition(partition)?.state.borrow().state.clone())
    }

    /// Whether a partition works here at this moment.
    #[must_use]
    pub fn is_here(&self, partition: PartitionId) -> bool {
        let partition = self.shared.partition(partition);
        partition.is_some_and(|partition| partition.state.borrow().state == PartitionState::Running)
    }

    /// Resolves when a partition is in another state here than the one that is given.
    pub async fn left_state(&self, partition: PartitionId, known: &PartitionState) {
        let Some(partition) = self.shared.partition(partition) else { return };
        if partition.state.clone().wait_for(|info| info.state != *known).await.is_err() {
            // The engine is gone: nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    fn own(&self, partition: PartitionId) -> Result<&Partition, Error> {
        self.shared.partition(partition).ok_or_else(|| not_owned(partition))
    }
}
