//! Calls about one partition, on their way to its owner: as unary calls between nodes, however they came in.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_proto::{HOPS_HEADER, OWNER_HEADER, ticket_to_wire, v1};
use unanimity_types::PartitionId;
use uuid::Uuid;

use super::{carry, convert};
use crate::api::handlers::Handlers;
use crate::cluster::{By, Call, Carried, Failure, Lane, Router, closing};
use crate::engine::{Error, Wait};

/// A request that names a partition, if only by an xid.
pub(super) trait Routed: Clone + Send + Sync + Sized {
    /// What answers it.
    type Answer: Send;

    /// Whether the same again is the same (protocol M3).
    const IS_REPEATABLE: bool;

    /// Gives it the identity that its caller left to us, so that it stays the same command wherever it goes.
    fn name(&mut self, _: &Router) {}

    /// Says how much later it is than when it came.
    fn later(&mut self, _: Duration) {}

    /// The same without a wait for what comes later; nothing if it waits for nothing.
    fn at_once(&self) -> Option<Self> {
        None
    }

    /// Its partition.
    fn partition(&self, router: &Router) -> Result<PartitionId, Error>;

    /// Carries it out here.
    fn here(
        self,
        handlers: &Handlers,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Answer, Error>> + Send;

    /// Sends it to another node.
    fn there(
        request: Request<Self>,
        client: CoordinatorClient<Channel>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

/// Has a request carried out by its partition's owner.
pub(super) async fn route<R: Routed>(
    handlers: &Handlers,
    mut request: R,
    by: By,
) -> Result<Carried<R::Answer>, Error> {
    let Some(router) = handlers.router() else {
        return request.here(handlers, by.deadline).await.map(|answer| Carried { answer, owner: None });
    };
    request.name(router);
    let to = request.partition(router)?;
    let passed = Passed { handlers, request, came: Instant::now(), by };
    router.carry(&passed, to, by).await
}

struct Passed<'a, R> {
    handlers: &'a Handlers,
    request: R,
    came: Instant,
    by: By,
}

impl<R: Routed> Passed<'_, R> {
    fn request(&self) -> R {
        let mut request = self.request.clone();
        request.later(self.came.elapsed());
        request
    }
}

impl<R: Routed> Call for Passed<'_, R> {
    type Answer = R::Answer;

    fn is_repeatable(&self) -> bool {
        R::IS_REPEATABLE
    }

    fn given_up(&self) -> Option<&CancellationToken> {
        self.handlers.given_up()
    }

    async fn here(&self) -> Result<R::Answer, Error> {
        let request = self.request();
        let is_look = self.by.hops > 0 && request.at_once().is_some();
        let here = request.here(self.handlers, self.by.deadline);
        if !is_look {
            return here.await;
        }
        tokio::select! {
            biased;
            // Whoever passed the look on goes on waiting at the next owner.
            () = self.handlers.closing().cancelled() => Err(closing()),
            answer = here => answer,
        }
    }

    async fn there(&self, lane: &Lane, hops: u32, until: Instant) -> Result<Carried<R::Answer>, Failure> {
        let client = CoordinatorClient::new(lane.channel.clone())
            // What the owner's limits let it say is passed on.
            .max_decoding_message_size(usize::MAX);
        let closing = self.handlers.closing();
        let request = self.request();
        let response = match request.at_once() {
            // The node stops: the caller is told what is known and asks again elsewhere.
            Some(request) if closing.is_cancelled() => R::there(wire(request, hops, until), client).await,
            Some(at_once) => tokio::select! {
                response = R::there(wire(request, hops, until), client.clone()) => response,
                () = closing.cancelled() => R::there(wire(at_once, hops, until), client).await,
            },
            None => R::there(wire(request, hops, until), client).await,
        };
        let response = response.map_err(|status| Failure::of_status(&status, &lane.address))?;
        let owner = response.metadata().get(OWNER_HEADER).and_then(|owner| owner.to_str().ok());
        let owner = owner.map(Into::into);
        let answer = response.into_inner();
        Ok(Carried { answer, owner })
    }
}

/// A request as hop `hops`, whose answer is of no use after `until`.
fn wire<R>(message: R, hops: u32, until: Instant) -> Request<R> {
    let mut request = Request::new(message);
    request.set_timeout(until.saturating_duration_since(Instant::now()));
    request.metadata_mut().insert(HOPS_HEADER, MetadataValue::from(hops));
    request
}

macro_rules! routed {
    ($($request:ident => $answer:ident, $carry:ident, $client:ident, $repeatable:literal, {$($more:tt)*})+) => {$(
        impl Routed for v1::$request {
            type Answer = v1::$answer;

            const IS_REPEATABLE: bool = $repeatable;

            $($more)*

            async fn here(self, handlers: &Handlers, deadline: Instant) -> Result<v1::$answer, Error> {
                carry::$carry(handlers, self, deadline).await
            }

            async fn there(
                request: Request<Self>,
                mut client: CoordinatorClient<Channel>,
            ) -> Result<Response<v1::$answer>, Status> {
                client.$client(request).await
            }
        }
    )+};
    () => {};
}

/// The partition of the request's xid.
macro_rules! by_xid {
    () => {
        fn partition(&self, router: &Router) -> Result<PartitionId, Error> {
            Ok(router.partition_of(convert::xid(&self.xid)?))
        }
    };
}

routed! {
    BeginRequest => BeginResponse, begin, begin, true, {
        fn name(&mut self, router: &Router) {
            if self.xid.is_empty() {
                let (xid, ticket) = router.mint();
                self.xid = xid.to_string();
                self.ticket = ticket.map(ticket_to_wire);
            }
        }

        by_xid!();
    }
    RegisterBranchRequest => RegisterBranchResponse, register, register_branch, true, {
        fn name(&mut self, _: &Router) {
            if self.key.is_empty() {
                self.key = Uuid::new_v4().to_string();
            }
        }

        by_xid!();
    }
    VoteRequest => VoteResponse, vote, vote, true, { by_xid!(); }
    CommitRequest => DecideResponse, commit, commit, true, { by_xid!(); }
    AbortRequest => DecideResponse, abort, abort, true, { by_xid!(); }
    GetTransactionRequest => Transaction, get, get_transaction, true, {
        fn later(&mut self, by: Duration) {
            if self.wait_ms > 0 {
                let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
                // 0 would be for as long as may be.
                self.wait_ms = self.wait_ms.saturating_sub(by).max(1);
            }
        }

        fn at_once(&self) -> Option<Self> {
            let waits = convert::wait(self.wait, Wait::Accepted).is_ok_and(|wait| wait > Wait::Accepted);
            waits.then(|| Self { wait: v1::Wait::Accepted.into(), ..self.clone() })
        }

        by_xid!();
    }
    // An operator's second try is a second action, on record as such.
    RetryTransactionRequest => DecideResponse, retry, retry_transaction, false, { by_xid!(); }
    ResolveBranchRequest => DecideResponse, resolve, resolve_branch, false, { by_xid!(); }
    AcceptLossRequest => AcceptLossResponse, accept_loss, accept_loss, false, {
        fn partition(&self, _: &Router) -> Result<PartitionId, Error> {
            convert::partition(self.partition)
        }
    }
    RecordRestoredRequest => RecordRestoredResponse, record_restored, record_restored, false, {
        fn partition(&self, _: &Router) -> Result<PartitionId, Error> {
            convert::partition(self.partition)
        }
    }
    MovePartitionRequest => MovePartitionResponse, move_partition, move_partition, false, {
        fn partition(&self, _: &Router) -> Result<PartitionId, Error> {
            convert::partition(self.partition)
        }
    }
}
