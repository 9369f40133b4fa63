//! The calls to the coordinator, each with its deadline and its repetitions. What is asked for every
//! transaction goes by the command stream, where there is one.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;
use unanimity_proto::v1;
use unanimity_proto::v1::answer::Kind as Answer;
use unanimity_proto::v1::command::Kind as Command;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_types::{AbortReason, BranchKey, ErrorCode, LogId, LogPosition, Mode, Status, Xid};

use crate::client::birth::Claim;
use crate::client::info::info_from_wire;
use crate::client::nodes::Door;
use crate::client::{Again, Client, Failed, TransactionInfo};
use crate::error::ClientError;

/// What a commit or abort brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) status: Status,
    pub(crate) abort_reason: Option<AbortReason>,
}

/// What a begin brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) status: Status,
    pub(crate) log_id: Option<LogId>,
    pub(crate) position: Option<LogPosition>,
}

/// What a registration brought.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) branch_id: u32,
    pub(crate) log_id: Option<LogId>,
    pub(crate) position: Option<LogPosition>,
}

/// A request with its deadline in `grpc-timeout`, so that the server stops as well.
fn with_deadline<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

impl Client {
    pub(crate) async fn begin_call(
        &self,
        (xid, ticket): (Xid, Option<v1::Ticket>),
        mode: Mode,
        name: &str,
        timeout: Option<Duration>,
    ) -> Result<Option<LogId>, ClientError> {
        let message = v1::BeginRequest {
            mode: v1::Mode::from(mode).into(),
            name: name.to_owned(),
            xid: xid.to_string(),
            timeout_ms: timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            ticket,
            ..Default::default()
        };
        self.begin_plan(message).await.map(|begun| begun.log_id)
    }

    /// Begins a transaction of any mode. The request names its xid, so that it can be repeated.
    pub(crate) async fn begin_plan(&self, message: v1::BeginRequest) -> Result<Begun, ClientError> {
        let options = self.options();
        let ask = |door, limit| self.ask_begin(door, &message, limit);
        let xid = message.xid.parse().ok();
        let answer = self.routed(xid, options.begin_retry_for, options.call_timeout, ask).await?;
        let log_id = self.met(&answer.log_id)?;
        let position = self.witnesses().observe_wire(answer.position.as_ref());
        let status =
            answer.status().to_domain().ok_or_else(|| ClientError::protocol("the status is missing"))?;
        Ok(Begun { status, log_id, position })
    }

    pub(crate) async fn register_branch(
        &self,
        message: v1::RegisterBranchRequest,
        bound: Duration,
        lock_wait: Duration,
    ) -> Result<Registered, ClientError> {
        let timeout = (self.options().call_timeout + lock_wait).min(bound);
        let ask = |door, limit| self.ask_register(door, &message, limit);
        let answer = self.routed(message.xid.parse().ok(), bound, timeout, ask).await?;
        if answer.key != message.key {
            return Err(ClientError::protocol("the branch was registered under another key"));
        }
        let log_id = self.met(&answer.log_id)?;
        let position = self.witnesses().observe_wire(answer.position.as_ref());
        Ok(Registered { branch_id: answer.branch_id, log_id, position })
    }

    /// Asks for the decision Commit, again and again for the time that is set. Without votes the
    /// commit names none: a message's submit.
    pub(crate) async fn commit_call(
        &self,
        xid: Xid,
        votes: Option<&[BranchKey]>,
        claim: &Claim,
    ) -> Result<Decided, ClientError> {
        let options = self.options();
        let message = v1::CommitRequest {
            xid: xid.to_string(),
            votes: votes.map(|votes| v1::VoteSet { keys: votes.iter().map(ToString::to_string).collect() }),
            wait: v1::Wait::Decided.into(),
            birth: claim.birth.clone(),
            secret: claim.secret.clone(),
        };
        let message = &message;
        let ask =
            |door, limit| async move { self.ask_commit(door, message, limit).await.map_err(met_itself) };
        let answer = self.routed(Some(xid), options.commit_retry_for, options.call_timeout, ask).await?;
        self.decided(&answer)
    }

    /// Asks for the decision Abort.
    pub(crate) async fn abort_for(
        &self,
        xid: Xid,
        bound: Duration,
        claim: &Claim,
        wait: v1::Wait,
    ) -> Result<(), ClientError> {
        let timeout = self.options().call_timeout;
        let message = v1::AbortRequest {
            xid: xid.to_string(),
            wait: wait.into(),
            birth: claim.birth.clone(),
            secret: claim.secret.clone(),
            ..Default::default()
        };
        let ask = |door, limit| self.ask_abort(door, &message, limit);
        let answer = self.routed(Some(xid), bound, timeout, ask).await?;
        let decided = self.decided(&answer)?;
        match decided.status {
            Status::Aborting | Status::Aborted => Ok(()),
            status => Err(ClientError::Refused {
                code: ErrorCode::AlreadyDecided,
                message: format!("the transaction is {status}"),
                status: Some(status),
                abort_reason: None,
                retry_after: None,
            }),
        }
    }

    // By a call where there is no stream: boxed, so that who asks by the stream does not carry its size about.
    async fn ask_begin(
        &self,
        door: Arc<Door>,
        message: &v1::BeginRequest,
        timeout: Duration,
    ) -> Result<v1::BeginResponse, Failed> {
        match door.stream().ask(Command::Begin(message.clone()), timeout).await? {
            Some(Answer::Begun(answer)) => Ok(answer),
            Some(_) => Err(another_answer()),
            None => {
                let xid = message.xid.parse().ok();
                self.unary(&door, xid, message.clone(), timeout, |mut service, request| async move {
                    service.begin(request).await
                })
                .await
            }
        }
    }

    async fn ask_get(
        &self,
        door: Arc<Door>,
        message: &v1::GetTransactionRequest,
        timeout: Duration,
    ) -> Result<v1::Transaction, Failed> {
        let mut message = message.clone();
        if let Some(room) = door.stream().room_to_wait() {
            match door.stream().ask_in(Command::Get(message.clone()), timeout, Some(room)).await {
                Ok(Some(Answer::Found(found))) => return Ok(found),
                Ok(Some(_)) => return Err(another_answer()),
                Ok(None) => {}
                // The wait is over, and what was found is too large for a stream.
                Err(failed) if failed.code() == Some(ErrorCode::MessageTooLarge) => {
                    message.wait = v1::Wait::Unspecified.into();
                }
                // The request is ours and has an xid: the stream of an older coordinator has no such command.
                Err(failed) if failed.code() == Some(ErrorCode::InvalidRequest) => door.stream().no_looks(),
                Err(failed) => return Err(failed),
            }
        }
        let xid = message.xid.parse().ok();
        self.unary(&door, xid, message, timeout, |mut service, request| async move {
            service.get_transaction(request).await
        })
        .await
    }

    async fn ask_register(
        &self,
        door: Arc<Door>,
        message: &v1::RegisterBranchRequest,
        timeout: Duration,
    ) -> Result<v1::RegisterBranchResponse, Failed> {
        match door.stream().ask(Command::Register(message.clone()), timeout).await? {
            Some(Answer::Registered(answer)) => Ok(answer),
            Some(_) => Err(another_answer()),
            None => {
                let xid = message.xid.parse().ok();
                self.unary(&door, xid, message.clone(), timeout, |mut service, request| async move {
                    service.register_branch(request).await
                })
                .await
            }
        }
    }

    async fn ask_commit(
        &self,
        door: Arc<Door>,
        message: &v1::CommitRequest,
        timeout: Duration,
    ) -> Result<v1::DecideResponse, Failed> {
        match door.stream().ask(Command::Commit(message.clone()), timeout).await? {
            Some(Answer::Decided(answer)) => Ok(answer),
            Some(_) => Err(another_answer()),
            None => {
                let xid = message.xid.parse().ok();
                self.unary(&door, xid, message.clone(), timeout, |mut service, request| async move {
                    service.commit(request).await
                })
                .await
            }
        }
    }

    async fn ask_abort(
        &self,
        door: Arc<Door>,
        message: &v1::AbortRequest,
        timeout: Duration,
    ) -> Result<v1::DecideResponse, Failed> {
        match door.stream().ask(Command::Abort(message.clone()), timeout).await? {
            Some(Answer::Decided(answer)) => Ok(answer),
            Some(_) => Err(another_answer()),
            None => {
                let xid = message.xid.parse().ok();
                self.unary(&door, xid, message.clone(), timeout, |mut service, request| async move {
                    service.abort(request).await
                })
                .await
            }
        }
    }

    /// What is asked by calls of its own: for at most the time of one call, at every node that may have the answer.
    pub(crate) async fn called<M: Clone, T, F, Fut>(
        &self,
        xid: Option<Xid>,
        message: &M,
        timeout: Duration,
        call: F,
    ) -> Result<T, ClientError>
    where
        F: Fn(CoordinatorClient<Channel>, tonic::Request<M>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.called_as(Again::Same, xid, message, timeout, call).await
    }

    /// The same for a call of either kind.
    pub(crate) async fn called_as<M: Clone, T, F, Fut>(
        &self,
        again: Again,
        xid: Option<Xid>,
        message: &M,
        timeout: Duration,
        call: F,
    ) -> Result<T, ClientError>
    where
        F: Fn(CoordinatorClient<Channel>, tonic::Request<M>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let call = &call;
        let ask = |door: Arc<Door>, limit| async move {
            self.unary(&door, xid, message.clone(), limit, call).await
        };
        self.routed_as(again, xid, (timeout, timeout), ask).await
    }

    /// One attempt of a call of its own.
    async fn unary<M, T, Fut>(
        &self,
        door: &Door,
        xid: Option<Xid>,
        message: M,
        timeout: Duration,
        call: impl FnOnce(CoordinatorClient<Channel>, tonic::Request<M>) -> Fut,
    ) -> Result<T, Failed>
    where
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let response = Box::pin(call(door.service(), with_deadline(message, timeout))).await?;
        Ok(self.answered(xid, response))
    }

    pub(crate) async fn get(
        &self,
        xid: Xid,
        wait: v1::Wait,
        wait_for: Duration,
    ) -> Result<TransactionInfo, ClientError> {
        // On the wire 0 ms is no limit: who has no time left does not ask to wait.
        let wait = if wait_for.as_millis() == 0 { v1::Wait::Unspecified } else { wait };
        let timeout = self.options().call_timeout + wait_for;
        let message = v1::GetTransactionRequest {
            xid: xid.to_string(),
            wait: wait.into(),
            wait_ms: u64::try_from(wait_for.as_millis()).unwrap_or(u64::MAX),
        };
        let bound = self.options().call_timeout + wait_for;
        let ask = |door, limit| self.ask_get(door, &message, limit);
        let answer = self.routed(Some(xid), bound, timeout, ask).await?;
        self.witnesses().observe_wire(answer.position.as_ref());
        info_from_wire(answer)
    }

    /// Asks about branches in doubt: at most 1,000 xids of one log, each with the age in milliseconds of
    /// what is known of it here. Without its age the coordinator presumes what it forgot (protocol C8).
    pub(crate) async fn inquire(
        &self,
        asked: Vec<(Xid, u64)>,
        log_id: Option<LogId>,
    ) -> Result<Vec<v1::Inquiry>, ClientError> {
        // Witnesses belong to the log that was met; shown with another log's id they would accuse
        // the wrong one.
        let mine = log_id.is_none() || log_id == self.log_id();
        let witnesses = if mine { self.witnesses().to_wire() } else { Vec::new() };
        let timeout = self.options().call_timeout;
        let (xids, ages_ms) = asked.into_iter().map(|(xid, age)| (xid.to_string(), age)).unzip();
        let message = v1::InquireRequest {
            xids,
            ages_ms,
            log_id: log_id.map(|id| id.to_string()).unwrap_or_default(),
            witnesses,
        };
        // Any node will do: it asks the owners.
        let answer =
            self.called(None, &message, timeout, |mut service, request| async move {
                service.inquire(request).await
            })
            .await?;
        for position in &answer.positions {
            self.witnesses().observe_wire(Some(position));
        }
        if answer.answers.len() > message.xids.len() {
            return Err(ClientError::protocol("more answers than questions"));
        }
        Ok(answer.answers)
    }

    /// The coordinator's log; asks for it if nobody answered yet.
    pub(crate) async fn learn_log(&self) -> Result<LogId, ClientError> {
        if let Some(log_id) = self.log_id() {
            return Ok(log_id);
        }
        let timeout = self.options().call_timeout;
        let info = self
            .called(None, &v1::GetInfoRequest {}, timeout, |mut service, request| async move {
                service.get_info(request).await
            })
            .await?;
        self.met(&info.log_id)?.ok_or_else(|| ClientError::protocol("the coordinator names no log"))
    }

    /// Remembers the log that answered. Another log than the one met before is an error: what one
    /// log knows of a transaction says nothing about another's (protocol C8).
    fn met(&self, text: &str) -> Result<Option<LogId>, ClientError> {
        let Some(log_id) = parse_log_id(text) else { return Ok(None) };
        let first_time = !self.witnesses().is_mixed();
        if let (Err(known), true) = (self.witnesses().meet(log_id), first_time) {
            tracing::warn!(%known, answered = %log_id, "the coordinator answers from another log than before");
            // Not refused here: a transaction that begins now lives wholly in the new log. What
            // was begun in the old one is refused by its own log id.
        }
        Ok(Some(log_id))
    }

    fn decided(&self, answer: &v1::DecideResponse) -> Result<Decided, ClientError> {
        self.witnesses().observe_wire(answer.position.as_ref());
        let status =
            answer.status().to_domain().ok_or_else(|| ClientError::protocol("the status is missing"))?;
        Ok(Decided { status, abort_reason: answer.abort_reason.parse().ok() })
    }
}

/// The log id of an answer; `None` if it is missing or not one.
pub(crate) fn parse_log_id(text: &str) -> Option<LogId> {
    uuid::Uuid::try_parse(text).ok().filter(|id| !id.is_nil()).map(LogId)
}

/// A commit that meets itself (an earlier attempt still waits for its branches) is asked again.
fn met_itself(failed: Failed) -> Failed {
    match failed.code() {
        Some(ErrorCode::CommitInProgress) => {
            Failed::under_way("an earlier attempt of this commit is under way")
        }
        _ => failed,
    }
}

fn another_answer() -> Failed {
    ClientError::protocol("the answer is one to another question").into()
}
