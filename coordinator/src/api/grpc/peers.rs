//! The service `unanimity.v1.Peers`: what this node's partitions answer to the engines of other nodes.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use unanimity_proto::v1::peers_server::Peers;
use unanimity_proto::{position_from_wire, v1};
use unanimity_types::{ErrorCode, Limits, LogPosition, Mode, Name, SLOTS, Timestamp};

use super::service::{named, optional_name};
use super::{convert, status};
use crate::cluster::Router;
use crate::engine::{Asked, Coordinator, Error, ListFilter};

/// The service. Nothing that it is asked is passed on: whoever asks waits and asks again.
#[derive(Debug, Clone)]
pub(super) struct PeersService {
    coordinator: Coordinator,
    router: Option<Arc<Router>>,
}

impl PeersService {
    pub(super) fn new(coordinator: Coordinator, router: Option<Arc<Router>>) -> Self {
        Self { coordinator, router }
    }
}

/// Runs what an asker's end must not stop half-way.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let ended = tokio::spawn(work).await;
    let result = ended.unwrap_or_else(|error| {
        tracing::error!(%error, "a call of another node panicked");
        Err(Error::new(ErrorCode::Internal, "a bug in the coordinator; its log has the details"))
    });
    result.map(Response::new).map_err(|error| status(&error))
}

#[tonic::async_trait]
impl Peers for PeersService {
    async fn lock(&self, request: Request<v1::LockRequest>) -> Result<Response<v1::LockResponse>, Status> {
        let request = request.into_inner();
        let coordinator = self.coordinator.clone();
        detached(async move {
            let home = convert::partition(request.partition)?;
            let key = lock_key(request.key)?;
            let wait = Duration::from_millis(request.wait_ms).min(Limits::LOCK_WAIT_MAX);
            coordinator.lock_here(home, key, convert::xid(&request.xid)?, wait).await?;
            Ok(v1::LockResponse {})
        })
        .await
    }

    async fn unlock(
        &self,
        request: Request<v1::UnlockRequest>,
    ) -> Result<Response<v1::UnlockResponse>, Status> {
        let request = request.into_inner();
        let work = || {
            let keys = request.keys.into_iter().map(lock_key).collect::<Result<_, _>>()?;
            let xid = convert::xid(&request.xid)?;
            self.coordinator.unlock_here(convert::partition(request.partition)?, xid, keys)
        };
        work().map(|()| Response::new(v1::UnlockResponse {})).map_err(|error| status(&error))
    }

    async fn inquire_partition(
        &self,
        request: Request<v1::InquirePartitionRequest>,
    ) -> Result<Response<v1::InquirePartitionResponse>, Status> {
        let request = request.into_inner();
        let coordinator = self.coordinator.clone();
        detached(async move {
            if request.asked.len() > Limits::INQUIRY_XIDS_MAX {
                let message = format!("an inquiry has at most {} xids", Limits::INQUIRY_XIDS_MAX);
                return Err(Error::new(ErrorCode::InvalidRequest, message));
            }
            let asked = |asked: &v1::AskedXid| {
                let age = asked.age_ms.map(Duration::from_millis);
                convert::xid(&asked.xid).map(|xid| Asked { xid, age })
            };
            let asked = request.asked.iter().map(asked).collect::<Result<_, _>>()?;
            let answers = coordinator.inquire_here(convert::partition(request.partition)?, asked).await?;
            Ok(v1::InquirePartitionResponse { answers: answers.iter().map(convert::inquiry).collect() })
        })
        .await
    }

    async fn witness(
        &self,
        request: Request<v1::WitnessRequest>,
    ) -> Result<Response<v1::WitnessResponse>, Status> {
        let request = request.into_inner();
        let coordinator = self.coordinator.clone();
        detached(async move {
            if request.positions.len() > usize::from(SLOTS) {
                let message = "positions: at most one for each partition";
                return Err(Error::new(ErrorCode::InvalidRequest, message));
            }
            let positions: Vec<LogPosition> =
                request.positions.iter().map(position_from_wire).collect::<Result<_, _>>()?;
            let mut refused = None;
            for position in positions {
                if let Err(error) = coordinator.witness_here(position).await {
                    // A partition that went elsewhere hears it another time; a lost tail is told first.
                    let is_loss = error.code == ErrorCode::LogLostTail;
                    if is_loss || refused.is_none() {
                        refused = Some(error);
                    }
                }
            }
            refused.map_or(Ok(v1::WitnessResponse {}), Err)
        })
        .await
    }

    async fn look(&self, _: Request<v1::LookRequest>) -> Result<Response<v1::LookResponse>, Status> {
        if let Some(router) = &self.router {
            router.look_here();
        }
        Ok(Response::new(v1::LookResponse {}))
    }

    async fn list_open(
        &self,
        request: Request<v1::ListOpenRequest>,
    ) -> Result<Response<v1::ListOpenResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let filter = filter(request)?;
            let open = self.coordinator.open_here(&filter).await?;
            Ok(v1::ListOpenResponse { transactions: open.into_iter().map(convert::transaction).collect() })
        };
        work.await.map(Response::new).map_err(|error: Error| status(&error))
    }
}

fn lock_key(key: String) -> Result<Name, Error> {
    Name::new(key).map_err(|error| named("key", error))
}

fn filter(request: v1::ListOpenRequest) -> Result<ListFilter, Error> {
    /// What a page may have, and one more to see whether there is more.
    const LIMIT_MAX: u32 = 501;
    let after = match request.after_xid.as_str() {
        "" => None,
        xid => Some((Timestamp(request.after_ms), convert::xid(xid)?)),
    };
    Ok(ListFilter {
        status: request.status().to_domain(),
        mode: Mode::try_from(request.mode()).ok(),
        name: optional_name("name", request.name)?.map(String::from),
        participant: optional_name("participant", request.participant)?.map(String::from),
        older_than: None,
        attention: request.attention,
        after,
        limit: request.limit.min(LIMIT_MAX),
    })
}
