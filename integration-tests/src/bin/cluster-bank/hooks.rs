//! What the coordinator calls: a bank's part of a transfer, in each mode.

use sqlx::{Postgres, Transaction};
use unanimity_sdk::{
    Branch, HookError, MessageHooks, ReceivedMessage, Refused, StepCall, StepHooks, TccHooks,
};

use crate::{Part, books};

/// TCC: money is held, then goes.
pub(crate) struct Debit;

impl TccHooks<Postgres> for Debit {
    type Payload = Part;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Postgres>, branch: &Branch<Part>) -> Result<(), HookError> {
        books::reserve(tx, &branch.payload).await
    }

    async fn confirm(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        branch: &Branch<Part>,
    ) -> Result<(), HookError> {
        books::spend(tx, &branch.payload, "debit").await
    }

    async fn cancel(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        branch: &Branch<Part>,
    ) -> Result<(), HookError> {
        books::release(tx, &branch.payload).await
    }
}

/// TCC: money comes when it is sure.
pub(crate) struct Credit;

impl TccHooks<Postgres> for Credit {
    type Payload = Part;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Postgres>, branch: &Branch<Part>) -> Result<(), HookError> {
        books::knows(tx, &branch.payload.account).await
    }

    async fn confirm(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        branch: &Branch<Part>,
    ) -> Result<(), HookError> {
        books::book(tx, &branch.payload, "credit", branch.payload.cents).await
    }

    async fn cancel(&self, _: &mut Transaction<'_, Postgres>, _: &Branch<Part>) -> Result<(), HookError> {
        Ok(())
    }
}

/// A step of a saga.
pub(crate) enum Step {
    /// Money goes; undone, it comes back.
    Withdraw,
    /// Money comes and is held; undone, it goes.
    Deposit,
    /// Says yes or no.
    Approve,
    /// What was deposited is no longer held.
    Open,
}

impl StepHooks<Postgres> for Step {
    type Payload = Part;
    type Output = ();

    async fn action(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        call: &StepCall<Part>,
    ) -> Result<(), HookError> {
        let part = &call.payload;
        match self {
            Self::Withdraw => books::book(tx, part, "withdraw", -part.cents).await,
            Self::Deposit => books::deposit(tx, part).await,
            Self::Approve if part.approved => Ok(()),
            Self::Approve => Err(Refused::new("not approved").into()),
            Self::Open => books::release(tx, part).await,
        }
    }

    async fn compensate(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        call: &StepCall<Part>,
        _: Option<()>,
    ) -> Result<(), HookError> {
        let part = &call.payload;
        match self {
            Self::Withdraw => books::book(tx, part, "back", part.cents).await,
            Self::Deposit => books::spend(tx, part, "deposit back").await,
            Self::Approve | Self::Open => Err(HookError::failed("a step without a way back was undone")),
        }
    }
}

/// Messages bring money.
pub(crate) struct Take;

impl MessageHooks<Postgres> for Take {
    type Payload = Part;

    async fn deliver(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        message: &ReceivedMessage<Part>,
    ) -> Result<(), HookError> {
        books::book(tx, &message.payload, "take", message.payload.cents).await
    }
}
