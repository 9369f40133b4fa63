//! The service `unanimity.v1.Coordinator`: converts, calls the handler, converts back.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use unanimity_proto::v1::coordinator_server::Coordinator;
use unanimity_proto::{InvalidWire, plan_from_wire, position_from_wire, position_to_wire, v1};
use unanimity_types::{
    BranchId, BranchKey, ErrorCode, Limits, Mode, Name, NameError, PartitionId, ResolveAs,
};

use super::{convert, status};
use crate::api::guard::Deadline;
use crate::api::handlers::{AcceptLossInput, Handlers, InquireInput, ListInput, ResolveInput, remaining};
use crate::engine::{Begin, Error, OperatorAction, Wait};

/// The service.
#[derive(Debug, Clone)]
pub(super) struct CoordinatorService {
    handlers: Handlers,
}

impl CoordinatorService {
    pub(super) fn new(handlers: Handlers) -> Self {
        Self { handlers }
    }
}

/// The deadline that the guard found; without a guard (a test) a second.
fn deadline<T>(request: &Request<T>) -> Instant {
    request
        .extensions()
        .get::<Deadline>()
        .map_or_else(|| Instant::now() + std::time::Duration::from_secs(1), |deadline| deadline.0)
}

pub(super) fn named(what: &str, error: NameError) -> Error {
    Error::new(ErrorCode::InvalidName, format!("{what}: {error}"))
}

pub(super) fn optional_name(what: &str, text: String) -> Result<Option<Name>, Error> {
    if text.is_empty() { Ok(None) } else { Name::new(text).map(Some).map_err(|error| named(what, error)) }
}

fn action(operator: String, reason: String) -> OperatorAction {
    OperatorAction { operator, reason }
}

/// An operator's action, if one of the two says that it is one; the handler asks for the other.
fn operator(operator: String, reason: String) -> Option<OperatorAction> {
    (!operator.is_empty() || !reason.is_empty()).then(|| action(operator, reason))
}

#[tonic::async_trait]
impl Coordinator for CoordinatorService {
    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let work = async {
            let mode = v1::Mode::try_from(request.mode).unwrap_or(v1::Mode::Unspecified);
            let begin = Begin {
                mode: Mode::try_from(mode)?,
                name: optional_name("name", request.name)?,
                xid: if request.xid.is_empty() { None } else { Some(convert::xid(&request.xid)?) },
                timeout: convert::duration(request.timeout_ms),
                plan: plan_from_wire(request.saga, request.message)?,
            };
            let wait = convert::wait(request.wait, Wait::Accepted)?;
            let begun = self.handlers.begin(begin, wait, deadline).await?;
            Ok(v1::BeginResponse {
                xid: begun.xid.to_string(),
                status: v1::Status::from(begun.status) as i32,
                position: Some(position_to_wire(begun.position)),
                log_id: self.handlers.coordinator().log_id().to_string(),
            })
        };
        respond(work.await)
    }

    async fn register_branch(
        &self,
        request: Request<v1::RegisterBranchRequest>,
    ) -> Result<Response<v1::RegisterBranchResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let input = convert::registration(request)?;
            let registered = self.handlers.register(input).await?;
            Ok(v1::RegisterBranchResponse {
                branch_id: registered.branch_id.0,
                key: registered.key.to_string(),
                position: Some(position_to_wire(registered.position)),
                log_id: self.handlers.coordinator().log_id().to_string(),
            })
        };
        respond(work.await)
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let xid = convert::xid(&request.xid)?;
            let vote = request
                .vote()
                .to_domain()
                .ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "vote: missing or no such value"))?;
            let key = BranchKey::new(request.key).map_err(|error| named("key", error))?;
            let standing = self.handlers.vote(xid, key, vote).await?;
            Ok(v1::VoteResponse {
                position: Some(position_to_wire(standing.position)),
                status: v1::Status::from(standing.status).into(),
            })
        };
        respond(work.await)
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let work = async {
            let xid = convert::xid(&request.xid)?;
            let votes = request.votes.map(|votes| vote_set(votes.keys)).transpose()?;
            let wait = convert::wait(request.wait, Wait::Decided)?;
            let claim = convert::claim(request.birth, &request.secret)?;
            let standing = self.handlers.commit(xid, votes, claim, wait, deadline).await?;
            Ok(convert::standing(&standing))
        };
        respond(work.await)
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let work = async {
            let xid = convert::xid(&request.xid)?;
            let wait = convert::wait(request.wait, Wait::Decided)?;
            let by = operator(request.operator, request.reason);
            let claim = convert::claim(request.birth, &request.secret)?;
            let standing = self.handlers.abort(xid, by, claim, wait, deadline).await?;
            Ok(convert::standing(&standing))
        };
        respond(work.await)
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::Transaction>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let work = async {
            let xid = convert::xid(&request.xid)?;
            let wait = convert::wait(request.wait, Wait::Accepted)?;
            let limit = convert::duration(request.wait_ms)
                .map_or(remaining(deadline), |limit| limit.min(remaining(deadline)));
            let view = self.handlers.get(xid, wait, limit).await?;
            Ok(convert::transaction(view))
        };
        respond(work.await)
    }

    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let status = v1::Status::try_from(request.status)
                .map_err(|_| Error::new(ErrorCode::InvalidRequest, "status: no such value"))?;
            let mode = match v1::Mode::try_from(request.mode) {
                Ok(v1::Mode::Unspecified) => None,
                Ok(mode) => Some(Mode::try_from(mode)?),
                Err(_) => return Err(Error::new(ErrorCode::InvalidMode, "mode: no such value")),
            };
            let page = self
                .handlers
                .list(ListInput {
                    status: status.to_domain(),
                    mode,
                    name: optional_name("name", request.name)?.map(String::from),
                    participant: optional_name("participant", request.participant)?.map(String::from),
                    older_than: convert::duration(request.older_than_ms),
                    attention: request.attention,
                    cursor: request.cursor,
                    limit: request.limit,
                })
                .await?;
            Ok(convert::page(page))
        };
        respond(work.await)
    }

    async fn inquire(
        &self,
        request: Request<v1::InquireRequest>,
    ) -> Result<Response<v1::InquireResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let xids = request.xids.iter().map(|text| convert::xid(text)).collect::<Result<_, _>>()?;
            let witnesses =
                request.witnesses.iter().map(position_from_wire).collect::<Result<_, InvalidWire>>()?;
            let log_id = convert::log_id(&request.log_id)?;
            let answers = self.handlers.inquire(InquireInput { xids, log_id, witnesses }).await?;
            Ok(v1::InquireResponse {
                answers: answers
                    .into_iter()
                    .map(|inquiry| v1::Inquiry {
                        xid: inquiry.xid.to_string(),
                        answer: inquiry.answer.to_string(),
                        settled: inquiry.settled,
                    })
                    .collect(),
                positions: self
                    .handlers
                    .coordinator()
                    .positions()
                    .into_iter()
                    .map(position_to_wire)
                    .collect(),
            })
        };
        respond(work.await)
    }

    async fn retry_transaction(
        &self,
        request: Request<v1::RetryTransactionRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let xid = convert::xid(&request.xid)?;
            let standing = self.handlers.retry(xid, action(request.operator, request.reason)).await?;
            Ok(convert::standing(&standing))
        };
        respond(work.await)
    }

    async fn resolve_branch(
        &self,
        request: Request<v1::ResolveBranchRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let input = ResolveInput {
                xid: convert::xid(&request.xid)?,
                branch_id: BranchId(request.branch_id),
                resolve_as: resolve_as(&request.resolve_as)?,
                action: action(request.operator, request.reason),
            };
            let standing = self.handlers.resolve(input).await?;
            Ok(convert::standing(&standing))
        };
        respond(work.await)
    }

    async fn accept_loss(
        &self,
        request: Request<v1::AcceptLossRequest>,
    ) -> Result<Response<v1::AcceptLossResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let partition = u16::try_from(request.partition).map_err(|_| {
                Error::new(ErrorCode::InvalidRequest, format!("there is no partition {}", request.partition))
            })?;
            let input = AcceptLossInput {
                partition: PartitionId(partition),
                action: action(request.operator, request.reason),
            };
            let position = self.handlers.accept_loss(input).await?;
            Ok(v1::AcceptLossResponse { position: Some(position_to_wire(position)) })
        };
        respond(work.await)
    }

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::Info>, Status> {
        Ok(Response::new(convert::info(self.handlers.info())))
    }
}

fn respond<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status(&error))
}

/// The keys that a commit names.
pub(in crate::api) fn vote_set(keys: Vec<String>) -> Result<BTreeSet<BranchKey>, Error> {
    if keys.len() > Limits::BRANCHES_MAX {
        let message = format!("votes: a transaction has at most {} branches", Limits::BRANCHES_MAX);
        return Err(Error::new(ErrorCode::TooManyBranches, message));
    }
    keys.into_iter().map(|key| BranchKey::new(key).map_err(|error| named("votes", error))).collect()
}

/// How an operator says that a branch ended.
pub(in crate::api) fn resolve_as(word: &str) -> Result<ResolveAs, Error> {
    word.parse().map_err(|_| {
        Error::new(
            ErrorCode::InvalidRequest,
            "resolve_as: confirmed (its effect is there) or cancelled (it is not)",
        )
    })
}
