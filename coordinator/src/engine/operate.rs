//! What operators do by hand: with transactions, with partitions, with nodes.

use std::time::Duration;

use tokio::sync::oneshot;
use unanimity_core::Command;
use unanimity_types::{ErrorCode, LogPosition, PartitionId, Xid};

use super::error::Error;
use super::handle::{ANSWER_WAIT_MAX, Coordinator, Partition};
use super::mailbox::{Mail, Outcome, Unknown};
use super::refuse::{not_running, unavailable};
use super::request::{OperatorAction, PartitionState, Resolve, Standing, Wait};
use crate::log::Seal;

/// How long a caller is kept waiting for the copy of a partition's log: as long as calls may take.
const MOVE_WAIT_MAX: Duration = Duration::from_secs(55);

impl Coordinator {
    /// Operator: try what is owed again now.
    ///
    /// # Errors
    /// `transaction_not_found`, `illegal_transition`, or the engine's state.
    pub async fn retry(&self, xid: Xid, action: OperatorAction) -> Result<Standing, Error> {
        let command = Command::Retry { by: into_core(action) };
        self.operate(xid, command).await
    }

    /// Operator: settle a branch by hand.
    ///
    /// # Errors
    /// `transaction_not_found`, `branch_not_found`, `illegal_transition`, or the engine's state.
    pub async fn resolve(&self, resolve: Resolve) -> Result<Standing, Error> {
        let Resolve { xid, branch_id, resolve_as, action } = resolve;
        self.operate(xid, Command::Resolve { branch_id, resolve_as, by: into_core(action) }).await
    }

    async fn operate(&self, xid: Xid, command: Command) -> Result<Standing, Error> {
        match self.command(xid, command, Wait::Accepted, Unknown::AskHistory).await? {
            Outcome::Done(reply) => Ok(reply.standing(xid)),
            Outcome::InHistory(view, _) => {
                let message = format!("{xid} is over: {}", view.status);
                let mut error = Error::new(ErrorCode::IllegalTransition, message).about(xid);
                error.status = Some(view.status);
                Err(error)
            }
        }
    }

    /// Operator: go on with a partition whose log lost its tail (protocol C8, H6).
    ///
    /// # Errors
    /// `invalid_request` for an unknown partition, `illegal_transition` if it did not lose any.
    pub async fn accept_loss(
        &self,
        partition: PartitionId,
        action: OperatorAction,
    ) -> Result<LogPosition, Error> {
        let partition = self.numbered(partition)?;
        let (reply, answer) = oneshot::channel();
        self.send_anyway(partition, Mail::AcceptLoss { action, reply })?;
        self.answer(partition, answer, ANSWER_WAIT_MAX).await?
    }

    /// Operator: the log was restored from a backup. Of what may be from before, nothing is presumed from now on
    /// (protocol C8).
    ///
    /// # Errors
    /// `invalid_request` for an unknown partition, or the engine's state.
    pub async fn record_restored(
        &self,
        partition: PartitionId,
        action: OperatorAction,
    ) -> Result<LogPosition, Error> {
        let partition = self.numbered(partition)?;
        {
            let info = partition.state.borrow();
            if !matches!(info.state, PartitionState::Running | PartitionState::Stopped(_)) {
                return Err(not_running(partition.id, &info.state));
            }
        }
        let (reply, answer) = oneshot::channel();
        self.send_anyway(partition, Mail::Restored { action, reply })?;
        self.answer(partition, answer, ANSWER_WAIT_MAX).await?
    }

    /// Operator: move a partition's log to another server (protocol H10). Answers when the partition works there; asked
    /// in vain, or interrupted, it goes on by itself.
    ///
    /// # Errors
    /// `invalid_request` for an unknown partition, `illegal_transition` if it cannot go there, or the engine's
    /// state. On `outcome_unknown` the partition's server tells how it ended.
    pub async fn move_partition(
        &self,
        partition: PartitionId,
        server: &str,
        action: OperatorAction,
    ) -> Result<LogPosition, Error> {
        let partition = self.numbered(partition)?;
        self.shared.log.check_move(partition.id, server).await.map_err(|error| match error {
            crate::log::Error::Refused(why) => Error::new(ErrorCode::IllegalTransition, why),
            error => unavailable(&error),
        })?;
        let OperatorAction { operator, reason } = action;
        let (reply, answer) = oneshot::channel();
        let seal = Seal { server: server.to_owned(), operator, reason };
        self.send(partition, Mail::Move { seal, reply })?;
        self.answer(partition, answer, MOVE_WAIT_MAX).await?
    }

    /// Operator: a node of the cluster is to own nothing, or may own something again.
    ///
    /// # Errors
    /// `invalid_request` for a node that the cluster does not know, or the log's state.
    pub async fn set_draining(
        &self,
        node: &str,
        draining: bool,
        action: OperatorAction,
    ) -> Result<(), Error> {
        let known =
            self.shared.log.set_draining(node, draining).await.map_err(|error| unavailable(&error))?;
        if !known {
            let message = format!("the cluster knows no node {node:?}: see `unanimity cluster`");
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        if let Some(peers) = self.peers() {
            peers.look(None);
        }
        let OperatorAction { operator, reason } = action;
        tracing::warn!(node, draining, operator, reason, "an operator said whether a node is to be drained");
        Ok(())
    }

    /// The partition that an operator named by its number.
    fn numbered(&self, partition: PartitionId) -> Result<&Partition, Error> {
        self.shared.partition(partition).ok_or_else(|| {
            Error::new(ErrorCode::InvalidRequest, format!("there is no partition {partition}"))
        })
    }
}

pub(super) fn into_core(action: OperatorAction) -> unanimity_core::OperatorAction {
    unanimity_core::OperatorAction { operator: action.operator.into(), reason: action.reason.into() }
}
