//! What the coordinator says of a transaction.

use serde::de::DeserializeOwned;
use unanimity_proto::v1;
use unanimity_types::{AbortReason, BranchKind, BranchStatus, Decision, Status, Xid};

use crate::error::{ClientError, xid_in_answer};

/// What the coordinator says of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionInfo {
    /// The transaction.
    pub xid: Xid,
    /// Its name.
    pub name: String,
    /// Its status. Only a terminal status is final; [`Status::decision`] never changes either.
    pub status: Status,
    /// Why it was aborted, if it was.
    pub abort_reason: Option<AbortReason>,
    /// How many branches it has.
    pub branches: usize,
    /// Each of them.
    pub details: Vec<BranchInfo>,
    /// Why somebody should look at it, if so.
    pub attention: Option<String>,
}

/// What the coordinator says of a branch: of a saga's step, of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchInfo {
    /// Its key: the step's name.
    pub key: String,
    /// What it is, if this version knows the word.
    pub kind: Option<BranchKind>,
    /// Its status, if this version knows the word.
    pub status: Option<BranchStatus>,
    /// How often its present operation was tried.
    pub attempts: u32,
    /// Why the last attempt failed; empty if none did.
    pub last_error: String,
    /// No more attempts are made until an operator asks for a retry.
    pub parked: bool,
    /// A step's result, if it is text: the JSON of the hooks' output. Empty: none.
    pub result: String,
}

impl TransactionInfo {
    /// What was decided, if it was.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.status.decision()
    }

    /// A branch by its key, a step by its name.
    #[must_use]
    pub fn branch(&self, key: &str) -> Option<&BranchInfo> {
        self.details.iter().find(|branch| branch.key == key)
    }

    /// The result of a saga's step, from JSON; `None` if there is no such step, or it has brought
    /// nothing.
    ///
    /// # Errors
    /// If it does not fit the type.
    pub fn result_of<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, serde_json::Error> {
        match self.branch(step).map(|branch| branch.result.as_str()) {
            None | Some("") => Ok(None),
            Some(text) => serde_json::from_str(text).map(Some),
        }
    }
}

pub(super) fn info_from_wire(answer: v1::Transaction) -> Result<TransactionInfo, ClientError> {
    Ok(TransactionInfo {
        xid: xid_in_answer(&answer.xid)?,
        status: answer
            .status()
            .to_domain()
            .ok_or_else(|| ClientError::protocol("the transaction's status is missing"))?,
        abort_reason: answer.abort_reason.parse().ok(),
        branches: answer.branches.len(),
        details: answer.branches.into_iter().map(branch).collect(),
        attention: answer.attention.map(|attention| format!("{}: {}", attention.code, attention.message)),
        name: answer.name,
    })
}

fn branch(branch: v1::Branch) -> BranchInfo {
    BranchInfo {
        kind: branch.kind().to_domain(),
        status: branch.status.parse().ok(),
        key: branch.key,
        attempts: branch.attempts,
        last_error: branch.last_error,
        parked: branch.parked,
        result: branch.result,
    }
}
