//! What the engine asks of other nodes: [`Peers`] over the service `unanimity.v1.Peers`.
//!
//! Locks and questions about one partition go the way of every call to an owner, this node included: a partition may
//! come here while somebody waits for it. What may get lost goes once, to the owner as it is known.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use unanimity_core::{Attention, AttentionCode};
use unanimity_proto::v1::peers_client::PeersClient;
use unanimity_proto::{HOPS_HEADER, InvalidWire, position_from_wire, position_to_wire, v1};
use unanimity_types::{
    ErrorCode, InquiryAnswer, Limits, LogPosition, Mode, Name, PartitionId, Timestamp, Xid,
};

use super::failure::Failure;
use super::pool::Lane;
use super::route::{By, Call, Carried, Router};
use crate::engine::{Asked, Elsewhere, Error, Inquiry, ListFilter, Peers, TransactionView};

/// How long a home may take to write a lock, besides the wait for its holder.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// What may get lost is not worth a longer wait.
const TELL_WAIT: Duration = Duration::from_secs(2);
/// How long a page waits for a node: people look at it.
const LIST_WAIT: Duration = Duration::from_secs(3);

impl Peers for Router {
    fn lock<'a>(
        &'a self,
        home: PartitionId,
        key: &'a Name,
        xid: Xid,
        wait: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let now = Instant::now();
            let lock = Lock { router: self, home, key, xid, until: now + wait };
            let by = By { deadline: now + wait + LOCK_WAIT, hops: 0 };
            self.carry(&lock, home, by).await.map(|carried| carried.answer)
        }
        .boxed()
    }

    fn unlock(&self, home: PartitionId, xid: Xid, keys: Vec<Name>) -> BoxFuture<'_, ()> {
        async move {
            let Some(lane) = self.owner_of(home).and_then(|owner| self.lane(&owner).ok()) else { return };
            let request = v1::UnlockRequest {
                partition: home.0.into(),
                xid: xid.to_string(),
                keys: keys.iter().map(ToString::to_string).collect(),
            };
            if let Ok(Err(status)) = timeout(TELL_WAIT, client(&lane).unlock(request)).await {
                tracing::debug!(%home, %xid, %status, "a home did not hear that its locks are free; it asks by itself");
            }
        }
        .boxed()
    }

    fn inquire(
        &self,
        partition: PartitionId,
        asked: Vec<Asked>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<Inquiry>, Error>> {
        async move {
            let question = Question { router: self, partition, asked };
            let by = By { deadline: Instant::now() + limit, hops: 0 };
            self.carry(&question, partition, by).await.map(|carried| carried.answer)
        }
        .boxed()
    }

    fn witness(&self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let mut by_owner: BTreeMap<String, Vec<v1::LogPosition>> = BTreeMap::new();
            for position in positions {
                if let Some(owner) = self.owner_of(position.partition) {
                    by_owner.entry(owner).or_default().push(position_to_wire(position));
                }
            }
            let told = by_owner.into_iter().map(|(owner, positions)| async move {
                let Ok(lane) = self.lane(&owner) else { return Ok(()) };
                let request = v1::WitnessRequest { positions };
                match timeout(TELL_WAIT, client(&lane).witness(request)).await {
                    Ok(Err(status)) => heard(Failure::of_status(&status, &owner)),
                    Ok(Ok(_)) | Err(_) => Ok(()),
                }
            });
            join_all(told).await.into_iter().collect()
        }
        .boxed()
    }

    fn look(&self, whom: Option<&str>) {
        if whom.is_none() {
            self.look_here();
        }
        self.tidings().tell(whom);
    }

    fn open(&self, filter: ListFilter) -> BoxFuture<'_, Elsewhere> {
        async move {
            let parts = self.others().into_iter().map(|(node, address)| {
                let request = request(&filter);
                async move {
                    let part = match self.lane(&address) {
                        Ok(lane) => timeout(LIST_WAIT, client(&lane).list_open(request)).await.ok(),
                        Err(_) => None,
                    };
                    let views = part.and_then(Result::ok).and_then(|response| {
                        let transactions = response.into_inner().transactions;
                        transactions.into_iter().map(view).collect::<Result<Vec<_>, _>>().ok()
                    });
                    views.ok_or(node)
                }
            });
            let mut elsewhere = Elsewhere::default();
            for part in join_all(parts).await {
                match part {
                    Ok(views) => elsewhere.transactions.extend(views),
                    Err(node) => elsewhere.missing.push(node),
                }
            }
            elsewhere
        }
        .boxed()
    }
}

fn client(lane: &Lane) -> PeersClient<Channel> {
    PeersClient::new(lane.channel.clone()).max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
}

/// A witness that was not heard is dropped; what an owner says about it counts.
fn heard(failure: Failure) -> Result<(), Error> {
    match failure {
        Failure::Refused(error)
            if matches!(error.code, ErrorCode::LogLostTail | ErrorCode::LogDamaged | ErrorCode::NotMine) =>
        {
            Err(error)
        }
        Failure::Refused(_) | Failure::NotTaken(_) | Failure::Broken(_) => Ok(()),
    }
}

struct Lock<'a> {
    router: &'a Router,
    home: PartitionId,
    key: &'a Name,
    xid: Xid,
    until: Instant,
}

impl Lock<'_> {
    fn wait(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Call for Lock<'_> {
    type Answer = ();

    fn is_repeatable(&self) -> bool {
        true
    }

    async fn here(&self) -> Result<(), Error> {
        self.router.here().lock_here(self.home, self.key.clone(), self.xid, self.wait()).await
    }

    async fn there(&self, lane: &Lane, _: u32, until: Instant) -> Result<Carried<()>, Failure> {
        let request = v1::LockRequest {
            partition: self.home.0.into(),
            key: self.key.to_string(),
            xid: self.xid.to_string(),
            wait_ms: u64::try_from(self.wait().as_millis()).unwrap_or(u64::MAX),
        };
        match client(lane).lock(within(request, until)).await {
            Ok(_) => Ok(Carried { answer: (), owner: None }),
            Err(status) => Err(Failure::of_status(&status, &lane.address)),
        }
    }
}

struct Question<'a> {
    router: &'a Router,
    partition: PartitionId,
    asked: Vec<Asked>,
}

impl Call for Question<'_> {
    type Answer = Vec<Inquiry>;

    fn is_repeatable(&self) -> bool {
        true
    }

    async fn here(&self) -> Result<Vec<Inquiry>, Error> {
        self.router.here().inquire_here(self.partition, self.asked.clone()).await
    }

    async fn there(&self, lane: &Lane, _: u32, until: Instant) -> Result<Carried<Vec<Inquiry>>, Failure> {
        let asked = self.asked.iter().map(|asked| v1::AskedXid {
            xid: asked.xid.to_string(),
            age_ms: asked.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        });
        let request =
            v1::InquirePartitionRequest { partition: self.partition.0.into(), asked: asked.collect() };
        let answered = timeout_at(until, client(lane).inquire_partition(within(request, until))).await;
        let response = match answered {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Failure::of_status(&status, &lane.address)),
            Err(_) => return Err(Failure::Broken(super::failure::broke(&lane.address))),
        };
        let answers: Option<Vec<Inquiry>> = response.answers.iter().map(inquiry).collect();
        let unreadable = || Failure::Refused(unreadable("an inquiry"));
        Ok(Carried { answer: answers.ok_or_else(unreadable)?, owner: None })
    }
}

fn within<T>(message: T, until: Instant) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(until.saturating_duration_since(Instant::now()));
    // A node that stops tells those that passed a call on that it did not take it.
    request.metadata_mut().insert(HOPS_HEADER, MetadataValue::from(1));
    request
}

fn unreadable(what: &str) -> Error {
    Error::new(
        ErrorCode::Unavailable,
        format!("another node answered {what} in words that this one does not know"),
    )
}

fn inquiry(wire: &v1::Inquiry) -> Option<Inquiry> {
    let answer: InquiryAnswer = wire.answer.parse().ok()?;
    Some(Inquiry { xid: wire.xid.parse().ok()?, answer, settled: wire.settled })
}

fn request(filter: &ListFilter) -> v1::ListOpenRequest {
    let (after_ms, after_xid) = filter.after.map(|(at, xid)| (at.0, xid.to_string())).unwrap_or_default();
    v1::ListOpenRequest {
        status: filter.status.map_or(v1::Status::Unspecified, v1::Status::from).into(),
        mode: filter.mode.map_or(v1::Mode::Unspecified, v1::Mode::from).into(),
        name: filter.name.clone().unwrap_or_default(),
        participant: filter.participant.clone().unwrap_or_default(),
        attention: filter.attention,
        after_ms,
        after_xid,
        limit: filter.limit,
    }
}

/// A transaction of a list, which has neither branches nor a timeline.
fn view(wire: v1::Transaction) -> Result<TransactionView, Error> {
    let position = wire.position.as_ref().map(position_from_wire).transpose();
    let position = position.map_err(|error: InvalidWire| Error::new(error.code, error.message))?;
    let moment = |ms: u64| (ms > 0).then_some(Timestamp(ms));
    let mode = Mode::try_from(wire.mode()).ok();
    let attention = wire.attention.as_ref().and_then(|attention| {
        Some(Attention {
            code: AttentionCode::from_word(&attention.code)?,
            branch_id: None,
            message: attention.message.as_str().into(),
            since: Timestamp(attention.since_ms),
        })
    });
    Ok(TransactionView {
        xid: wire.xid.parse().map_err(|_| unreadable("a list"))?,
        mode,
        status: wire.status().to_domain().ok_or_else(|| unreadable("a list"))?,
        decision: wire.decision.parse().ok(),
        abort_reason: wire.abort_reason.parse().ok(),
        begun_at: Timestamp(wire.begun_at_ms),
        deadline: Timestamp(wire.deadline_ms),
        decided_at: moment(wire.decided_at_ms),
        finished_at: moment(wire.finished_at_ms),
        branches: Vec::new(),
        timeline: Vec::new(),
        attention,
        position: position.ok_or_else(|| unreadable("a list"))?,
        name: wire.name,
    })
}
