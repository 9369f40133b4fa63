//! The service `unanimity.v1.Coordinator`: converts, calls the handler, converts back.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use unanimity_proto::v1::coordinator_server::Coordinator;
use unanimity_proto::{InvalidWire, position_from_wire, position_to_wire, v1};
use unanimity_types::{
    BranchId, BranchKey, ErrorCode, Limits, Mode, Name, NameError, PartitionId, ResolveAs,
};

use super::commands::Commands;
use super::{carry, convert, status};
use crate::api::guard::Deadline;
use crate::api::handlers::{AcceptLossInput, Handlers, InquireInput, ListInput, ResolveInput};
use crate::engine::{Error, OperatorAction};

/// The service.
#[derive(Debug, Clone)]
pub(super) struct CoordinatorService {
    handlers: Handlers,
    commands: Arc<Commands>,
}

impl CoordinatorService {
    pub(super) fn new(handlers: Handlers, commands: Arc<Commands>) -> Self {
        Self { handlers, commands }
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
pub(super) fn operator(operator: String, reason: String) -> Option<OperatorAction> {
    (!operator.is_empty() || !reason.is_empty()).then(|| action(operator, reason))
}

#[tonic::async_trait]
impl Coordinator for CoordinatorService {
    type CommandsStream = ReceiverStream<Result<v1::AnswerBatch, Status>>;

    async fn commands(
        &self,
        request: Request<Streaming<v1::CommandBatch>>,
    ) -> Result<Response<Self::CommandsStream>, Status> {
        self.commands.open(request.into_inner()).map(Response::new)
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        let deadline = deadline(&request);
        respond(carry::begin(&self.handlers, request.into_inner(), deadline).await)
    }

    async fn register_branch(
        &self,
        request: Request<v1::RegisterBranchRequest>,
    ) -> Result<Response<v1::RegisterBranchResponse>, Status> {
        respond(carry::register(&self.handlers, request.into_inner()).await)
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteResponse>, Status> {
        respond(carry::vote(&self.handlers, request.into_inner()).await)
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let deadline = deadline(&request);
        respond(carry::commit(&self.handlers, request.into_inner(), deadline).await)
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let deadline = deadline(&request);
        respond(carry::abort(&self.handlers, request.into_inner(), deadline).await)
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::Transaction>, Status> {
        let deadline = deadline(&request);
        respond(carry::get(&self.handlers, request.into_inner(), deadline).await)
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
            let answers = self
                .handlers
                .inquire(InquireInput { xids, ages_ms: request.ages_ms, log_id, witnesses })
                .await?;
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
