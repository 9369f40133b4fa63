//! [`Coordinator`]: the handle through which everybody talks to the engine.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use unanimity_core::{Answer, BeginSpec, Command, Registration};
use unanimity_types::{
    AbortReason, BranchKey, Decision, ErrorCode, InquiryAnswer, Limits, LogId, LogPosition, Name,
    PartitionId, Ticket, Vote, Xid, partition_of,
};

use super::digest::{begin_digest, registration_digest};
use super::error::Error;
use super::locks;
use super::mailbox::{Mail, Outcome, Unknown};
use super::operate::into_core;
use super::peers::Peers;
use super::plan;
use super::refuse::{already_decided, closed, not_running, outcome_unknown, too_busy};
use super::request::{
    Asked, Begin, Begun, Claim, Commit, Info, Inquiry, ListFilter, OperatorAction, Page, PartitionInfo,
    PartitionState, Register, Registered, Standing, TransactionView, Turn, Wait,
};
use crate::entropy;
use crate::log::TransactionLog;

/// How long a command may wait for its answer before the caller is told that its outcome is unknown.
/// Longer than any healthy database needs, shorter than people wait.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// The longest that a look may wait for a status: callers come again.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(60);

/// What every partition's mailbox and state watch have in common.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: PartitionId,
    pub(super) mail: mpsc::Sender<Mail>,
    /// Bytes of payloads that may wait in the mailbox.
    pub(super) room: Arc<Semaphore>,
    pub(super) state: watch::Receiver<PartitionInfo>,
}

/// What every clone of the handle shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) log: Arc<dyn TransactionLog>,
    pub(super) node: String,
    /// All of the log's, each at the place of its number.
    pub(super) partitions: Vec<Partition>,
    /// The way to other nodes, if this one is in a cluster. Taken away at the engine's end: it knows this handle.
    pub(super) peers: RwLock<Option<Arc<dyn Peers>>>,
}

impl Shared {
    /// The partition of that number, if the log has it.
    pub(super) fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.get(usize::from(id.0))
    }
}

/// The engine's handle: cheap to clone. Every method's answer is released only when the last block
/// that it looked at is durable (protocol C5). Dropping a call's future never takes a command back.
#[derive(Debug, Clone)]
pub struct Coordinator {
    pub(super) shared: Arc<Shared>,
}

impl Coordinator {
    /// Who this coordinator is and how its partitions are.
    #[must_use]
    pub fn info(&self) -> Info {
        let identity = self.shared.log.identity();
        Info {
            log_id: identity.log_id,
            node: self.shared.node.clone(),
            partitions: identity.partitions,
            states: self.shared.partitions.iter().map(|partition| partition.state.borrow().clone()).collect(),
        }
    }

    /// The log's identity.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.shared.log.identity().log_id
    }

    /// Tells the engine the way to other nodes. Without one it is the only node, and refuses what it does not own.
    pub fn join(&self, peers: Arc<dyn Peers>) {
        *self.shared.peers.write().unwrap_or_else(PoisonError::into_inner) = Some(peers);
    }

    pub(super) fn leave(&self) {
        *self.shared.peers.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn peers(&self) -> Option<Arc<dyn Peers>> {
        self.shared.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last durable place of every partition: what participants keep as witnesses.
    #[must_use]
    pub fn positions(&self) -> Vec<LogPosition> {
        self.shared.partitions.iter().filter_map(|partition| partition.state.borrow().position).collect()
    }

    /// What new xids are stamped with, for every partition that works here (protocol 1.2). A generation
    /// lasts ten seconds.
    #[must_use]
    pub fn tickets(&self) -> Vec<(PartitionId, Ticket)> {
        let tickets =
            self.shared.partitions.iter().map(|partition| (partition.id, partition.state.borrow().ticket));
        tickets.filter_map(|(id, ticket)| Some((id, ticket?))).collect()
    }

    /// Whether every partition that is to be this node's works, or is on its way here from another node that works
    /// until then. One that is another node's does not count.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.partitions.iter().all(|partition| partition.state.borrow().is_well())
    }

    /// Waits until every partition that is to be this node's works, has stopped for good, or the time is over.
    ///
    /// # Errors
    /// If one stopped, or not all work in time.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let all = async {
            for partition in &self.shared.partitions {
                let mut state = partition.state.clone();
                let settled = state
                    .wait_for(|info| {
                        let settled = matches!(
                            info.state,
                            PartitionState::Running | PartitionState::Stopped(_) | PartitionState::Closed
                        );
                        settled || info.turn == Turn::Elsewhere
                    })
                    .await;
                match settled.as_ref().map(|info| (&info.state, info.turn)) {
                    Ok((PartitionState::Running, _)) => {}
                    Ok((_, Turn::Elsewhere)) => {}
                    Ok((other, _)) => return Err(not_running(partition.id, other)),
                    Err(_) => return Err(closed()),
                }
            }
            Ok(())
        };
        match tokio::time::timeout(limit, all).await {
            Ok(result) => result,
            Err(_) => {
                let late = self.shared.partitions.iter().find_map(|partition| {
                    let info = partition.state.borrow();
                    (info.turn != Turn::Elsewhere && info.state != PartitionState::Running)
                        .then(|| not_running(partition.id, &info.state))
                });
                late.map_or(Ok(()), Err)
            }
        }
    }

    /// Begins a global transaction. A repetition (same xid, same body) is answered as the first time.
    ///
    /// # Errors
    /// `invalid_plan`, `payload_too_large`, `xid_reused`, `already_decided` (presumed aborted before it
    /// began), or the engine's state.
    pub async fn begin(&self, begin: Begin) -> Result<Begun, Error> {
        self.begin_within(begin, Limits::TIMEOUT_DEFAULT).await
    }

    /// The same, with a timeout for a begin that names none. A repetition at a node where that is another one is the
    /// same begin all the same (protocol M1).
    ///
    /// # Errors
    /// As [`Coordinator::begin`].
    pub async fn begin_within(&self, begin: Begin, unsaid: Duration) -> Result<Begun, Error> {
        let timeout = begin.timeout.unwrap_or(unsaid);
        if timeout.is_zero() || timeout > Limits::TIMEOUT_MAX {
            let message = format!(
                "a timeout is more than 0 and at most {} days",
                Limits::TIMEOUT_MAX.as_secs() / 86_400
            );
            return Err(Error::new(ErrorCode::InvalidTimeout, message));
        }
        plan::check(&begin.plan)?;
        let minted = begin.xid.is_none();
        let xid = begin.xid.unwrap_or_else(|| Xid::new(entropy::time_uuid()));
        let spec = BeginSpec {
            mode: begin.mode,
            digest: begin_digest(begin.mode, begin.name.as_ref(), begin.timeout, &begin.plan),
            name: begin.name,
            timeout,
            plan: begin.plan,
            decide_hash: None,
        };
        let digest = spec.digest;
        let unknown = match begin.ticket {
            _ if minted => Unknown::New,
            Some(ticket) => Unknown::Minted(ticket),
            None => Unknown::AskHistory,
        };
        match self.command(xid, Command::Begin(spec), Wait::Accepted, unknown).await? {
            Outcome::Done(reply) => Ok(Begun { xid, status: reply.status, position: reply.position }),
            Outcome::InHistory(view, row_digest) => {
                if view.mode.is_none() {
                    return Err(already_decided(&view));
                }
                if row_digest != digest {
                    let message = format!("the xid {xid} was used before for another transaction");
                    return Err(Error::new(ErrorCode::XidReused, message).about(xid));
                }
                Ok(Begun { xid, status: view.status, position: view.position })
            }
        }
    }

    /// Registers a branch, after taking the locks that it names (protocol H7). A repetition (same key,
    /// same body) is the same branch.
    ///
    /// # Errors
    /// `already_decided`, `commit_in_progress`, `branch_key_reused`, `too_many_branches`,
    /// `lock_conflict`, or the engine's state.
    pub async fn register(&self, register: Register) -> Result<Registered, Error> {
        self.register_as(register, Claim::default()).await
    }

    /// The same for a transaction that may have begun without a call. Such a one's registration without
    /// lock keys is answered without a wait: its ticket makes that safe (protocol 1.1, C3).
    ///
    /// # Errors
    /// As [`Coordinator::register`]; `already_decided` where the ticket is not good any more.
    pub async fn register_as(&self, mut register: Register, claim: Claim) -> Result<Registered, Error> {
        if register.payload.len() > Limits::PAYLOAD_BYTES_MAX {
            let message = format!(
                "a payload has at most {} bytes, this one has {}; keep large data in your database and pass its key",
                Limits::PAYLOAD_BYTES_MAX,
                register.payload.len()
            );
            return Err(Error::new(ErrorCode::PayloadTooLarge, message).about(register.xid));
        }
        locks::check(&mut register)?;
        // Boxed, like every wait that is rare: a command's future is moved about and is to be small.
        if !register.lock_keys.is_empty() {
            Box::pin(locks::take(self, &register, &claim)).await?;
        }
        let key = match register.key.clone() {
            Some(key) => key,
            // A UUID is a valid key.
            None => BranchKey::new(entropy::uuid().to_string())
                .map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))?,
        };
        let xid = register.xid;
        let registration = Registration {
            digest: registration_digest(&register),
            key: key.clone(),
            targets: register.targets,
            payload: register.payload,
            kind: register.kind,
            two_phase: register.two_phase,
            policy: register.policy,
            lock_keys: register.lock_keys,
        };
        let command = Command::Register(registration);
        match self.command_as(xid, command, claim, Wait::Accepted, Unknown::AskHistory).await? {
            Outcome::Done(reply) => match reply.answer {
                Answer::Registered(branch_id) => Ok(Registered { branch_id, key, position: reply.position }),
                Answer::Status | Answer::Undecided => {
                    Err(Error::new(ErrorCode::Internal, "a registration was answered without a branch")
                        .about(xid))
                }
            },
            Outcome::InHistory(view, _) => Err(already_decided(&view)),
        }
    }

    /// A two-phase branch votes by itself. Answers when the vote's block is durable.
    ///
    /// # Errors
    /// `already_decided`, `vote_contradicts`, `branch_not_found`, `illegal_transition`, or the engine's
    /// state.
    pub async fn vote(&self, xid: Xid, key: BranchKey, vote: Vote) -> Result<Standing, Error> {
        match self.command(xid, Command::Vote { key, vote }, Wait::Accepted, Unknown::AskHistory).await? {
            Outcome::Done(reply) => Ok(reply.standing(xid)),
            Outcome::InHistory(view, _) => Err(already_decided(&view)),
        }
    }

    /// Asks for the decision Commit. Answers when it is durable, or when every branch is settled.
    ///
    /// # Errors
    /// `already_decided` with the true status if it is, or becomes, an abort; `outcome_unknown` if the
    /// engine cannot tell; or the engine's state.
    pub async fn commit(&self, commit: Commit) -> Result<Standing, Error> {
        self.commit_as(commit, Claim::default()).await
    }

    /// The same for a transaction that may have begun without a call.
    ///
    /// # Errors
    /// As [`Coordinator::commit`]; `wrong_secret`.
    pub async fn commit_as(&self, commit: Commit, claim: Claim) -> Result<Standing, Error> {
        let Commit { xid, votes, wait } = commit;
        self.decide(xid, Command::Commit { votes }, claim, Decision::Commit, wait).await
    }

    /// Asks for the decision Abort. Answers when it is durable, or when every branch is settled.
    ///
    /// # Errors
    /// `already_decided` with the true status if it was committed; or the engine's state.
    pub async fn abort(&self, xid: Xid, wait: Wait) -> Result<Standing, Error> {
        self.abort_as(xid, Claim::default(), wait).await
    }

    /// The same for a transaction that may have begun without a call.
    ///
    /// # Errors
    /// As [`Coordinator::abort`]; `wrong_secret`.
    pub async fn abort_as(&self, xid: Xid, claim: Claim, wait: Wait) -> Result<Standing, Error> {
        self.abort_because(xid, AbortReason::Requested, None, claim, wait).await
    }

    /// Where a decided transaction stands when it is finished, if that is asked for and comes soon.
    async fn until(&self, standing: Standing, wait: Wait) -> Result<Standing, Error> {
        if wait < Wait::Finished || standing.status.is_terminal() {
            return Ok(standing);
        }
        let view = Box::pin(self.get(standing.xid, Wait::Finished, LOOK_WAIT_MAX)).await;
        // The decision is durable: it is told, whatever became of the wait.
        Ok(view.map_or(standing, |view| standing_of(&view)))
    }

    /// An operator's abort of what is undecided.
    ///
    /// # Errors
    /// As [`Coordinator::abort`].
    pub async fn abort_by_operator(
        &self,
        xid: Xid,
        action: OperatorAction,
        wait: Wait,
    ) -> Result<Standing, Error> {
        self.abort_because(xid, AbortReason::Operator, Some(action), Claim::default(), wait).await
    }

    async fn abort_because(
        &self,
        xid: Xid,
        reason: AbortReason,
        action: Option<OperatorAction>,
        claim: Claim,
        wait: Wait,
    ) -> Result<Standing, Error> {
        let command = Command::Abort { reason, by: action.map(into_core) };
        self.decide(xid, command, claim, Decision::Abort, wait).await
    }

    /// Sends a command that asks for a decision: pleased by the one that it wants, whoever made it.
    async fn decide(
        &self,
        xid: Xid,
        command: Command,
        claim: Claim,
        wants: Decision,
        wait: Wait,
    ) -> Result<Standing, Error> {
        // Less than the decision is asked for by who wants no more than to be heard.
        let first = wait.min(Wait::Decided);
        match self.command_as(xid, command, claim, first, Unknown::AskHistory).await? {
            Outcome::Done(reply) => self.until(reply.standing(xid), wait).await,
            Outcome::InHistory(view, _) if view.status.decision() == Some(wants) => Ok(standing_of(&view)),
            Outcome::InHistory(view, _) => Err(already_decided(&view)),
        }
    }

    /// A transaction as it durably is, at once or when it is decided or finished, whichever `wait`
    /// says, but not later than `limit`: then as it is.
    ///
    /// # Errors
    /// `transaction_not_found` (which is no outcome), or the engine's state.
    pub async fn get(&self, xid: Xid, wait: Wait, limit: Duration) -> Result<TransactionView, Error> {
        let patient = wait > Wait::Accepted && !limit.is_zero();
        let waited = if patient {
            tokio::time::timeout(limit.min(LOOK_WAIT_MAX), self.look(xid, wait)).await.ok()
        } else {
            None
        };
        let found = match waited {
            Some(found) => found?,
            None => self.look(xid, Wait::Accepted).await?,
        };
        if let Some(view) = found {
            return Ok(*view);
        }
        match self.history(&[xid]).await?.pop() {
            Some((view, _)) => Ok(view),
            None => Err(Error::new(
                ErrorCode::TransactionNotFound,
                format!(
                    "nothing is known about {xid}; this is no outcome: a commit may be on its way. To settle it, abort it."
                ),
            )
            .about(xid)),
        }
    }

    /// A look into memory, when it has come as far as `wait`.
    async fn look(&self, xid: Xid, wait: Wait) -> Result<Option<Box<TransactionView>>, Error> {
        let partition = self.partition(xid)?;
        let (reply, answer) = oneshot::channel();
        self.send(partition, Mail::Get { xid, wait, reply })?;
        // The caller's own limit ends a wait for a status before this one does.
        let limit = if wait == Wait::Accepted { ANSWER_WAIT_MAX } else { LOOK_WAIT_MAX + ANSWER_WAIT_MAX };
        self.answer(partition, answer, limit).await?
    }

    /// A page of transactions, open and over, newest begun first.
    ///
    /// # Errors
    /// The engine's or the log's state.
    pub async fn list(&self, filter: ListFilter) -> Result<Page, Error> {
        super::list::list(self, filter).await
    }

    /// What became of transactions whose branches are in doubt. An unknown xid is aborted by asking,
    /// durably, before it is answered (protocol C2).
    ///
    /// # Errors
    /// `invalid_request` for too many xids, or the engine's state.
    pub async fn inquire(
        &self,
        log_id: Option<LogId>,
        asked: Vec<impl Into<Asked>>,
    ) -> Result<Vec<Inquiry>, Error> {
        self.inquire_within(log_id, asked, ANSWER_WAIT_MAX).await
    }

    /// The same, waiting so long for the owners of partitions that do not live here. Those of which none answers are
    /// left out.
    ///
    /// # Errors
    /// As [`Coordinator::inquire`].
    pub async fn inquire_within(
        &self,
        log_id: Option<LogId>,
        asked: Vec<impl Into<Asked>>,
        limit: Duration,
    ) -> Result<Vec<Inquiry>, Error> {
        if asked.len() > Limits::INQUIRY_XIDS_MAX {
            let message = format!("an inquiry has at most {} xids", Limits::INQUIRY_XIDS_MAX);
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        let asked: Vec<Asked> = asked.into_iter().map(Into::into).collect();
        if log_id.is_some_and(|log_id| log_id != self.log_id()) {
            let not_mine =
                |asked: Asked| Inquiry { xid: asked.xid, answer: InquiryAnswer::NotMine, settled: false };
            return Ok(asked.into_iter().map(not_mine).collect());
        }
        super::inquire::inquire(self, asked, limit).await
    }

    /// A witness shows the highest places that it saw. A partition whose log cannot have had such a
    /// place stops until an operator accepts the loss (protocol H6).
    ///
    /// # Errors
    /// `log_lost_tail` if a witness knows more than a log of ours holds.
    pub async fn witness(&self, positions: &[LogPosition]) -> Result<(), Error> {
        let peers = self.peers();
        let is_elsewhere = |position: &LogPosition| {
            peers.is_some()
                && matches!(
                    self.state_of(position.partition),
                    Some(PartitionState::Waiting(_) | PartitionState::Closed)
                )
        };
        let (elsewhere, here): (Vec<_>, Vec<_>) = positions.iter().copied().partition(is_elsewhere);
        let mut refused = None;
        for position in here {
            // Every partition is to hear its witness, whatever another one says.
            if let Err(error) = self.hear(position).await {
                refused.get_or_insert(error);
            }
        }
        if let Some(peers) = peers
            && !elsewhere.is_empty()
            && let Err(error) = peers.witness(elsewhere).await
        {
            refused.get_or_insert(error);
        }
        refused.map_or(Ok(()), Err)
    }

    pub(super) async fn hear(&self, position: LogPosition) -> Result<(), Error> {
        if self.shared.partition(position.partition).is_none() {
            return Err(Error::new(
                ErrorCode::NotMine,
                format!("there is no partition {}", position.partition),
            ));
        }
        self.witness_here(position).await
    }

    /// Delivery says that a participant can be reached again: what waits for it is tried soon. Every
    /// partition hears it, those whose log is in trouble or whose mailbox is full as soon as they can: the
    /// retry timers of what waits for a participant are long.
    pub async fn participant_available(&self, participant: &Name) {
        let mail = || Mail::ParticipantAvailable(participant.clone());
        let mut full = Vec::new();
        for partition in &self.shared.partitions {
            let state = partition.state.borrow().state.clone();
            // One that recovers plans what it owes anew, and the others owe nothing.
            let hears = matches!(state, PartitionState::Running | PartitionState::Unavailable(_));
            if hears && matches!(partition.mail.try_send(mail()), Err(mpsc::error::TrySendError::Full(_))) {
                full.push(partition);
            }
        }
        for partition in full {
            let _ = partition.mail.send(mail()).await;
        }
    }

    pub(super) fn partition(&self, xid: Xid) -> Result<&Partition, Error> {
        let id = partition_of(xid, self.shared.log.identity().partitions);
        self.shared
            .partition(id)
            .ok_or_else(|| Error::new(ErrorCode::NotOwner, format!("this node does not run partition {id}")))
    }

    pub(super) fn send(&self, partition: &Partition, mail: Mail) -> Result<(), Error> {
        {
            let info = partition.state.borrow();
            if info.state != PartitionState::Running {
                return Err(not_running(partition.id, &info.state));
            }
        }
        self.send_anyway(partition, mail)
    }

    pub(super) fn send_anyway(&self, partition: &Partition, mail: Mail) -> Result<(), Error> {
        partition.mail.try_send(mail).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => too_busy(partition),
            mpsc::error::TrySendError::Closed(_) => closed(),
        })
    }

    pub(super) async fn answer<T>(
        &self,
        partition: &Partition,
        answer: oneshot::Receiver<T>,
        limit: Duration,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(value)) => Ok(value),
            // The partition threw its memory away with the answer in it.
            Ok(Err(_)) => Err(outcome_unknown(partition.id, "the partition was recovered meanwhile")),
            Err(_) => Err(outcome_unknown(partition.id, "its log did not answer in time")),
        }
    }
}

fn standing_of(view: &TransactionView) -> Standing {
    Standing { xid: view.xid, status: view.status, abort_reason: view.abort_reason, position: view.position }
}
