//! The handlers: domain types in, domain types out, the same for gRPC and HTTP.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::Either;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use unanimity_types::{
    BranchKey, ErrorCode, Limits, LogId, LogPosition, Mode, Name, PartitionId, Plan, Status,
    TICKETED_TIMEOUT_MAX, Target, Timestamp, Vote, Xid,
};

use super::cursor;
use crate::cluster::{Census, Router, TopologyNews};
use crate::config::Config;
use crate::delivery::AllowList;
use crate::engine::{
    Asked, Begin, Begun, Claim, Commit, Coordinator, Error, Info, Inquiry, ListFilter, OperatorAction,
    Register, Registered, Resolve, Standing, TransactionView, Wait,
};

/// How many transactions a page has if nobody says.
const PAGE_DEFAULT: u32 = 50;
/// The most that a page has.
const PAGE_MAX: u32 = 500;
/// An answer must have left before the caller's deadline: what a wait leaves of it.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);

/// Register a branch, as both interfaces say it.
#[derive(Debug, Clone)]
pub struct RegisterInput {
    /// The branch.
    pub register: Register,
    /// The log's identity as the caller knows it.
    pub log_id: Option<LogId>,
    /// What the transaction is, if it began without a call.
    pub claim: Claim,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListInput {
    /// Only this status.
    pub status: Option<Status>,
    /// Only this mode.
    pub mode: Option<Mode>,
    /// Only this name.
    pub name: Option<String>,
    /// Only with a branch at this participant.
    pub participant: Option<String>,
    /// Only begun at least so long ago.
    pub older_than: Option<Duration>,
    /// Only what needs attention.
    pub attention: bool,
    /// From the page before; empty for the first.
    pub cursor: String,
    /// At most so many; 0 for the default.
    pub limit: u32,
}

/// A page as both interfaces give it: without branches and timelines, which may be large.
#[derive(Debug, Clone)]
pub struct PageOutput {
    /// The transactions.
    pub transactions: Vec<TransactionView>,
    /// Empty on the last page.
    pub next_cursor: String,
    /// Nodes that did not answer in time.
    pub missing: Vec<String>,
}

/// Ask about branches in doubt.
#[derive(Debug, Clone)]
pub struct InquireInput {
    /// Which transactions.
    pub xids: Vec<Xid>,
    /// How old the asker's own record of each is, in milliseconds and in the order of the xids; empty if
    /// it does not say.
    pub ages_ms: Vec<u64>,
    /// The log that the branches were registered with.
    pub log_id: Option<LogId>,
    /// The highest places that the caller saw.
    pub witnesses: Vec<LogPosition>,
}

/// Settle a branch by hand.
pub type ResolveInput = Resolve;

/// Move a partition's log to another server.
#[derive(Debug, Clone)]
pub struct MoveInput {
    /// Which partition.
    pub partition: PartitionId,
    /// Where to.
    pub server: String,
    /// Who and why.
    pub action: OperatorAction,
}

/// The handlers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handlers {
    coordinator: Coordinator,
    router: Option<Arc<Router>>,
    allow: Arc<AllowList>,
    payload_bytes_max: usize,
    transaction_timeout: Duration,
    closing: CancellationToken,
    /// Set for somebody who drops no future: cancelled when nobody hears answers any more.
    in_place: Option<CancellationToken>,
}

impl Handlers {
    /// Handlers over an engine.
    #[must_use]
    pub fn new(
        coordinator: Coordinator,
        router: Option<Arc<Router>>,
        allow: AllowList,
        config: &Config,
        closing: CancellationToken,
    ) -> Self {
        Self {
            coordinator,
            router,
            allow: Arc::new(allow),
            payload_bytes_max: config.limits.payload_bytes_max,
            transaction_timeout: config.timeouts.transaction(),
            closing,
            in_place: None,
        }
    }

    /// The same for somebody who drops none of the futures of [`Handlers::begin`], [`Handlers::register`],
    /// [`Handlers::vote`], [`Handlers::commit`] and [`Handlers::abort`] before it ended: they need no tasks
    /// of their own. `closing` ends their waits for what comes after a decision, as the node's end does. `given_up`
    /// ends the search for an owner as well: nobody hears the answer.
    pub(super) fn in_place(&self, closing: CancellationToken, given_up: CancellationToken) -> Self {
        Self { closing, in_place: Some(given_up), ..self.clone() }
    }

    /// Cancelled when nobody hears answers any more, if whoever asks can tell.
    pub(super) fn given_up(&self) -> Option<&CancellationToken> {
        self.in_place.as_ref()
    }

    /// The engine behind.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// The way to other nodes, if this one is in a cluster. The handlers themselves are answered by this node.
    pub(super) fn router(&self) -> Option<&Arc<Router>> {
        self.router.as_ref()
    }

    /// Resolves when the node begins to stop, or whoever waits for answers is gone.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// What a stream is told of the cluster, if this node is in one.
    pub(super) fn topology(&self) -> Option<TopologyNews> {
        self.router.as_ref().map(|router| router.news())
    }

    /// Begins a transaction, and waits for what it does by itself if `wait` says so. What only its TM can
    /// decide is not waited for: the TM is who waits.
    ///
    /// # Errors
    /// As [`Coordinator::begin`].
    pub async fn begin(&self, begin: Begin, wait: Wait, deadline: Instant) -> Result<Begun, Error> {
        self.check_plan(&begin)?;
        let by_itself = match &begin.plan {
            Plan::Open => false,
            Plan::Saga(_) => true,
            Plan::Message(plan) => plan.submit,
        };
        let (coordinator, unsaid) = (self.coordinator.clone(), self.transaction_timeout);
        let begun = self.carried(async move { coordinator.begin_within(begin, unsaid).await }).await?;
        if !by_itself || reached(begun.status, wait) {
            return Ok(begun);
        }
        match Box::pin(self.get(begun.xid, wait, remaining(deadline))).await {
            Ok(view) => Ok(Begun { xid: view.xid, status: view.status, position: view.position }),
            // It has begun and goes on by itself: its xid, which may be ours, is told whatever happened
            // to the wait.
            Err(error) => {
                tracing::debug!(xid = %begun.xid, %error, "the wait for a plan's end ended early");
                Ok(begun)
            }
        }
    }

    /// What a plan names must be callable, as what a registration names.
    fn check_plan(&self, begin: &Begin) -> Result<(), Error> {
        let payload = |bytes: &Bytes| self.check_payload(bytes);
        let target = |target: &Target| {
            self.allow.check(target).map_err(|why| Error::new(ErrorCode::TargetNotAllowed, why))
        };
        match &begin.plan {
            Plan::Open => {}
            Plan::Saga(plan) => {
                for step in &plan.steps {
                    payload(&step.payload)?;
                    target(&step.action)?;
                    step.compensate.as_ref().map(target).transpose()?;
                }
            }
            Plan::Message(plan) => {
                payload(&plan.check_back_payload)?;
                plan.check_back.as_ref().map(target).transpose()?;
                for delivery in &plan.deliveries {
                    payload(&delivery.payload)?;
                    target(&delivery.target)?;
                }
            }
        }
        Ok(())
    }

    /// A birth that does not say how long it may stay undecided gets what is configured.
    fn timed(&self, mut claim: Claim) -> Claim {
        if let Some(birth) = &mut claim.birth {
            birth.timeout.get_or_insert(self.transaction_timeout.min(TICKETED_TIMEOUT_MAX));
        }
        claim
    }

    fn check_payload(&self, payload: &Bytes) -> Result<(), Error> {
        if payload.len() <= self.payload_bytes_max {
            return Ok(());
        }
        let message = format!(
            "a payload has at most {} bytes, this one has {}; keep large data in your database and pass its key",
            self.payload_bytes_max,
            payload.len()
        );
        Err(Error::new(ErrorCode::PayloadTooLarge, message))
    }

    /// Registers a branch whose targets may be called.
    ///
    /// # Errors
    /// `target_not_allowed`, `payload_too_large`, `not_mine`, or as [`Coordinator::register`].
    pub async fn register(&self, input: RegisterInput) -> Result<Registered, Error> {
        let RegisterInput { register, log_id, claim } = input;
        let claim = self.timed(claim);
        let xid = register.xid;
        self.check_payload(&register.payload).map_err(|error| error.about(xid))?;
        if log_id.is_some_and(|log_id| log_id != self.coordinator.log_id()) {
            let message = format!(
                "{xid} was begun in another log than the one of this coordinator ({}): check which coordinator the \
                 participant points at",
                self.coordinator.log_id()
            );
            return Err(Error::new(ErrorCode::NotMine, message).about(xid));
        }
        for target in register.targets.iter() {
            self.allow
                .check(target)
                .map_err(|why| Error::new(ErrorCode::TargetNotAllowed, why).about(xid))?;
        }
        let coordinator = self.coordinator.clone();
        self.carried(async move { coordinator.register_as(register, claim).await }).await
    }

    /// A two-phase branch votes by itself.
    ///
    /// # Errors
    /// As [`Coordinator::vote`].
    pub async fn vote(&self, xid: Xid, key: BranchKey, vote: Vote) -> Result<Standing, Error> {
        let coordinator = self.coordinator.clone();
        self.carried(async move { coordinator.vote(xid, key, vote).await }).await
    }

    /// Asks for the decision Commit; waits for the branches too if `wait` says so, as long as the
    /// deadline lets it. A decision that is there is always told: not finished in time is no error.
    ///
    /// # Errors
    /// As [`Coordinator::commit`].
    pub async fn commit(
        &self,
        xid: Xid,
        votes: Option<BTreeSet<BranchKey>>,
        claim: Claim,
        wait: Wait,
        deadline: Instant,
    ) -> Result<Standing, Error> {
        let claim = self.timed(claim);
        let coordinator = self.coordinator.clone();
        let commit = Commit { xid, votes, wait: Wait::Decided };
        let standing = self.carried(async move { coordinator.commit_as(commit, claim).await }).await?;
        self.follow(standing, wait, deadline).await
    }

    /// Asks for the decision Abort; `by` if an operator does.
    ///
    /// # Errors
    /// As [`Coordinator::abort`]; `invalid_request` for an operator without a name or reason.
    pub async fn abort(
        &self,
        xid: Xid,
        by: Option<OperatorAction>,
        claim: Claim,
        wait: Wait,
        deadline: Instant,
    ) -> Result<Standing, Error> {
        let by = by.map(checked).transpose()?;
        let claim = self.timed(claim);
        let first = if claim.birth.is_some() { wait.min(Wait::Decided) } else { Wait::Decided };
        let coordinator = self.coordinator.clone();
        let standing = self
            .carried(async move {
                match by {
                    Some(action) => coordinator.abort_by_operator(xid, action, Wait::Decided).await,
                    None => coordinator.abort_as(xid, claim, first).await,
                }
            })
            .await?;
        self.follow(standing, wait, deadline).await
    }

    /// A transaction, at once or when it is as far as `wait` says, but not later than `limit`.
    ///
    /// # Errors
    /// As [`Coordinator::get`].
    pub async fn get(&self, xid: Xid, wait: Wait, limit: Duration) -> Result<TransactionView, Error> {
        let waiting = self.coordinator.get(xid, wait, limit);
        if wait == Wait::Accepted || limit.is_zero() {
            return waiting.await;
        }
        tokio::select! {
            view = waiting => view,
            // The node stops: the caller is told what is known and asks again elsewhere.
            () = self.closing.cancelled() => self.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await,
        }
    }

    /// A page of transactions.
    ///
    /// # Errors
    /// `invalid_request` for a cursor that no page gave or a page that is too large, or as
    /// [`Coordinator::list`].
    pub async fn list(&self, input: ListInput) -> Result<PageOutput, Error> {
        let ListInput { status, mode, name, participant, older_than, attention, cursor, limit } = input;
        if limit > PAGE_MAX {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                format!("limit: a page has at most {PAGE_MAX}"),
            ));
        }
        let limit = if limit == 0 { PAGE_DEFAULT } else { limit };
        let after: Option<(Timestamp, Xid)> = cursor::read(&cursor)?;
        let filter = ListFilter { status, mode, name, participant, older_than, attention, after, limit };
        let mut page = self.coordinator.list(filter).await?;
        for transaction in &mut page.transactions {
            transaction.branches = Vec::new();
            transaction.timeline = Vec::new();
        }
        let next_cursor = page.next.map(cursor::write).unwrap_or_default();
        Ok(PageOutput { transactions: page.transactions, next_cursor, missing: page.missing })
    }

    /// What became of transactions whose branches are in doubt. Partitions that nobody owns until the deadline are
    /// left out.
    ///
    /// # Errors
    /// `log_lost_tail` if a witness knows of more than the log holds, or as [`Coordinator::inquire`].
    pub async fn inquire(&self, input: InquireInput, deadline: Instant) -> Result<Vec<Inquiry>, Error> {
        let InquireInput { xids, ages_ms, log_id, witnesses } = input;
        if !ages_ms.is_empty() && ages_ms.len() != xids.len() {
            let message = "ages_ms: one for each xid, or none at all";
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        let ages =
            ages_ms.into_iter().map(|age| Some(Duration::from_millis(age))).chain(std::iter::repeat(None));
        let asked: Vec<Asked> = xids.into_iter().zip(ages).map(|(xid, age)| Asked { xid, age }).collect();
        if witnesses.len() > usize::from(unanimity_types::SLOTS) {
            let message = "witnesses: at most one for each partition";
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        let coordinator = self.coordinator.clone();
        detached(async move {
            // Another log's witnesses say nothing about ours; the inquiry answers `not_mine`.
            let heard = if log_id.is_none_or(|log_id| log_id == coordinator.log_id()) {
                coordinator.witness(&witnesses).await
            } else {
                Ok(())
            };
            // A partition that a witness stopped answers nothing any more; the others do.
            let answers = coordinator.inquire_within(log_id, asked, remaining(deadline)).await;
            match (heard, answers) {
                (Err(error), Ok(answers)) if answers.is_empty() => Err(error),
                (Err(error), Err(_)) => Err(error),
                (_, answers) => answers,
            }
        })
        .await
    }

    /// Operator: try what is owed again now.
    ///
    /// # Errors
    /// `invalid_request` without a name or reason, or as [`Coordinator::retry`].
    pub async fn retry(&self, xid: Xid, action: OperatorAction) -> Result<Standing, Error> {
        let action = checked(action)?;
        let coordinator = self.coordinator.clone();
        detached(async move { coordinator.retry(xid, action).await }).await
    }

    /// Operator: settle a branch by hand.
    ///
    /// # Errors
    /// `invalid_request` without a name or reason, or as [`Coordinator::resolve`].
    pub async fn resolve(&self, mut input: ResolveInput) -> Result<Standing, Error> {
        input.action = checked(input.action)?;
        let coordinator = self.coordinator.clone();
        detached(async move { coordinator.resolve(input).await }).await
    }

    /// Operator: go on with a log that lost its tail.
    ///
    /// # Errors
    /// `invalid_request` without a name or reason, or as [`Coordinator::accept_loss`].
    pub async fn accept_loss(
        &self,
        partition: PartitionId,
        action: OperatorAction,
    ) -> Result<LogPosition, Error> {
        let action = checked(action)?;
        let coordinator = self.coordinator.clone();
        detached(async move { coordinator.accept_loss(partition, action).await }).await
    }

    /// Operator: the log was restored from a backup.
    ///
    /// # Errors
    /// `invalid_request` without a name or reason, or as [`Coordinator::record_restored`].
    pub async fn record_restored(
        &self,
        partition: PartitionId,
        action: OperatorAction,
    ) -> Result<LogPosition, Error> {
        let action = checked(action)?;
        let coordinator = self.coordinator.clone();
        detached(async move { coordinator.record_restored(partition, action).await }).await
    }

    /// Operator: move a partition's log to another server.
    ///
    /// # Errors
    /// `invalid_request` without a name or reason, or as [`Coordinator::move_partition`].
    pub async fn move_partition(&self, input: MoveInput) -> Result<LogPosition, Error> {
        let action = checked(input.action)?;
        let coordinator = self.coordinator.clone();
        detached(async move { coordinator.move_partition(input.partition, &input.server, action).await })
            .await
    }

    /// Who this coordinator is.
    #[must_use]
    pub fn info(&self) -> Info {
        self.coordinator.info()
    }

    /// The cluster as this node sees it.
    ///
    /// # Errors
    /// `unavailable` for a node that is in no cluster, or has not seen it yet.
    pub async fn cluster(&self) -> Result<Census, Error> {
        let router = self.router.as_ref().filter(|router| !router.view().cluster.nodes.is_empty());
        let router = router
            .ok_or_else(|| Error::new(ErrorCode::Unavailable, "this node has not seen its cluster yet"))?;
        Ok(router.census().await)
    }

    /// Operator: a node is to own nothing, or may again. The node itself hands over what it owns.
    ///
    /// # Errors
    /// `invalid_request` without a name or reason, or for a node that the cluster does not know; or the log's state.
    pub async fn drain(&self, node: String, draining: bool, action: OperatorAction) -> Result<(), Error> {
        let action = checked(action)?;
        let coordinator = self.coordinator.clone();
        detached(async move { coordinator.set_draining(&node, draining, action).await }).await
    }

    /// Runs what changes state where it is sure to run to its end.
    fn carried<T, F>(&self, work: F) -> impl Future<Output = Result<T, Error>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        if self.in_place.is_some() { Either::Left(work) } else { Either::Right(detached(work)) }
    }

    /// Waits for the branches after a decision, if that was asked for.
    async fn follow(&self, standing: Standing, wait: Wait, deadline: Instant) -> Result<Standing, Error> {
        if reached(standing.status, wait) {
            return Ok(standing);
        }
        match Box::pin(self.get(standing.xid, wait, remaining(deadline))).await {
            Ok(view) => Ok(Standing {
                xid: view.xid,
                status: view.status,
                abort_reason: view.abort_reason,
                position: view.position,
            }),
            // The decision is durable and was asked for: it is told, whatever happened to the wait.
            Err(error) => {
                tracing::debug!(xid = %standing.xid, %error, "the wait for the branches ended early");
                Ok(standing)
            }
        }
    }
}

/// Whether a status is as far as a caller waits.
fn reached(status: Status, wait: Wait) -> bool {
    match wait {
        Wait::Accepted => true,
        Wait::Decided => status.decision().is_some(),
        Wait::Finished => status.is_terminal(),
    }
}

/// What a wait may take.
pub(super) fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).saturating_sub(DEADLINE_MARGIN)
}

/// Runs what changes state in a task of its own: a client's deadline drops the handler's future, and
/// a dropped future must not stop a command between two of its steps.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a handler panicked");
            Err(Error::new(ErrorCode::Internal, "a bug in the coordinator; its log has the details"))
        }
    }
}

/// An operator has a name and gives a reason; both are recorded and shown for ever.
fn checked(action: OperatorAction) -> Result<OperatorAction, Error> {
    Name::new(action.operator.as_str())
        .map_err(|error| Error::new(ErrorCode::InvalidRequest, format!("operator: {error}")))?;
    if action.reason.trim().is_empty() {
        return Err(Error::new(ErrorCode::InvalidRequest, "reason: say why; it is recorded with the action"));
    }
    if action.reason.len() > Limits::REASON_BYTES_MAX {
        let message = format!("reason: at most {} bytes", Limits::REASON_BYTES_MAX);
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    // U+0000 cannot be stored by every database (protocol M5); the rest could hide what stands there.
    if action.reason.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Error::new(ErrorCode::InvalidRequest, "reason: no control characters"));
    }
    Ok(action)
}
