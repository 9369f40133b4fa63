//! The service `unanimity.v1.Coordinator`: converts, calls the handler, converts back.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use unanimity_proto::v1::coordinator_server::Coordinator;
use unanimity_proto::{HOPS_HEADER, InvalidWire, OWNER_HEADER, position_from_wire, position_to_wire, v1};
use unanimity_types::{BranchKey, ErrorCode, Limits, Mode, Name, NameError, ResolveAs};

use super::commands::Commands;
use super::routed::{self, Routed};
use super::{convert, status};
use crate::api::guard::Deadline;
use crate::api::handlers::{Handlers, InquireInput, ListInput};
use crate::cluster::{By, Carried};
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

    /// Has a call carried out by its partition's owner.
    async fn route<R: Routed>(&self, request: Request<R>) -> Result<Response<R::Answer>, Status> {
        let by = By { deadline: deadline(&request), hops: hops(request.metadata()) };
        let carried = routed::route(&self.handlers, request.into_inner(), by).await;
        let Carried { answer, owner } = carried.map_err(|error| status(&error))?;
        let mut response = Response::new(answer);
        if let Some(owner) = owner.and_then(|owner| owner.parse().ok()) {
            response.metadata_mut().insert(OWNER_HEADER, owner);
        }
        Ok(response)
    }
}

/// The deadline that the guard found; without a guard (a test) a second.
fn deadline<T>(request: &Request<T>) -> Instant {
    request
        .extensions()
        .get::<Deadline>()
        .map_or_else(|| Instant::now() + std::time::Duration::from_secs(1), |deadline| deadline.0)
}

/// How many nodes passed the call on. What is no number says nothing.
fn hops(metadata: &MetadataMap) -> u32 {
    let hops = metadata.get(HOPS_HEADER).and_then(|value| value.to_str().ok());
    hops.and_then(|hops| hops.parse().ok()).unwrap_or(0)
}

pub(super) fn named(what: &str, error: NameError) -> Error {
    Error::new(ErrorCode::InvalidName, format!("{what}: {error}"))
}

pub(super) fn optional_name(what: &str, text: String) -> Result<Option<Name>, Error> {
    if text.is_empty() { Ok(None) } else { Name::new(text).map(Some).map_err(|error| named(what, error)) }
}

pub(super) fn action(operator: String, reason: String) -> OperatorAction {
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
        self.route(request).await
    }

    async fn register_branch(
        &self,
        request: Request<v1::RegisterBranchRequest>,
    ) -> Result<Response<v1::RegisterBranchResponse>, Status> {
        self.route(request).await
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteResponse>, Status> {
        self.route(request).await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        self.route(request).await
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        self.route(request).await
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::Transaction>, Status> {
        self.route(request).await
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
        let deadline = deadline(&request);
        let request = request.into_inner();
        let work = async {
            let xids = request.xids.iter().map(|text| convert::xid(text)).collect::<Result<_, _>>()?;
            let witnesses =
                request.witnesses.iter().map(position_from_wire).collect::<Result<_, InvalidWire>>()?;
            let log_id = convert::log_id(&request.log_id)?;
            let answers = self
                .handlers
                .inquire(InquireInput { xids, ages_ms: request.ages_ms, log_id, witnesses }, deadline)
                .await?;
            Ok(v1::InquireResponse {
                answers: answers.iter().map(convert::inquiry).collect(),
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
        self.route(request).await
    }

    async fn resolve_branch(
        &self,
        request: Request<v1::ResolveBranchRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        self.route(request).await
    }

    async fn accept_loss(
        &self,
        request: Request<v1::AcceptLossRequest>,
    ) -> Result<Response<v1::AcceptLossResponse>, Status> {
        self.route(request).await
    }

    async fn record_restored(
        &self,
        request: Request<v1::RecordRestoredRequest>,
    ) -> Result<Response<v1::RecordRestoredResponse>, Status> {
        self.route(request).await
    }

    async fn move_partition(
        &self,
        request: Request<v1::MovePartitionRequest>,
    ) -> Result<Response<v1::MovePartitionResponse>, Status> {
        self.route(request).await
    }

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::Info>, Status> {
        Ok(Response::new(convert::info(self.handlers.info())))
    }

    async fn get_cluster(&self, _: Request<v1::GetClusterRequest>) -> Result<Response<v1::Cluster>, Status> {
        let log_id = self.handlers.info().log_id;
        respond(self.handlers.cluster().await.map(|census| convert::cluster(census, log_id)))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let v1::DrainNodeRequest { node, draining, operator, reason } = request.into_inner();
        respond(
            self.handlers
                .drain(node, draining, action(operator, reason))
                .await
                .map(|()| v1::DrainNodeResponse {}),
        )
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
