//! [`Router`]: brings a call to the owner of its partition, wherever that is.
//!
//! ```text
//!   call ─▶ here? ──────────────────────────────▶ this node's engine ─▶ answer
//!            │ another node ─▶ gate ─▶ lane ────▶ the owner          ─▶ answer, with the owner's address
//!            │ nobody, or this node in a moment
//!            └────── waits: another view of the cluster, another state here, an opened gate ─┐
//!               ▲──────────────────────────────────────────────────────────────────────────┘
//! ```
//! A call does not fail because its partition is handed over or taken over: it waits for the next owner, within its
//! own deadline and among the calls in hand. What was surely not taken is tried again. What may have been carried out
//! is repeated too, because every command is the same command when it comes again (protocol M3): where it is not, its
//! caller is told `outcome_unknown`, and so is every caller whose repetitions found no owner in time.
//!
//! Only the node where a call came in waits and repeats. A node that a call was passed on to passes it on once more, if
//! it knows better, or refuses (protocol M10).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use unanimity_proto::Connector;
use unanimity_types::{ErrorCode, PartitionId, Ticket, Xid, partition_of};

use super::failure::{Failure, broke};
use super::gates::Gates;
use super::news::TopologyNews;
use super::pool::{Lane, Pool};
use super::tidings::Tidings;
use super::view::View;
use crate::engine::{Coordinator, Error, PartitionState};
use crate::wall_clock;

/// How many nodes may pass a call on.
const HOPS_MAX: u32 = 2;
/// An answer must have left before the caller's deadline.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);
/// Between two tries of a partition that this node believes to own and that does not take the call.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A view of the cluster may be missed, or never come: look by oneself so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How many xids are minted for one of a partition of this node: with one partition of a thousand here it still
/// nearly always comes out.
const MINT_TRIES: u32 = 4_096;

/// A call that is carried out by a partition's owner.
pub(crate) trait Call: Send + Sync {
    /// What its caller gets.
    type Answer: Send;

    /// Whether it may be repeated when nobody knows whether it was carried out.
    fn is_repeatable(&self) -> bool;

    /// Carries it out on this node.
    fn here(&self) -> impl Future<Output = Result<Self::Answer, Error>> + Send;

    /// Cancelled when nobody waits for the answer any more: then it is not tried again. What is being carried out
    /// here runs to its end.
    fn given_up(&self) -> Option<&CancellationToken> {
        None
    }

    /// Passes it on to another node, as its hop `hops`, which has until `until`. The answer says who gave it, if that
    /// is yet another one.
    fn there(
        &self,
        lane: &Lane,
        hops: u32,
        until: Instant,
    ) -> impl Future<Output = Result<Carried<Self::Answer>, Failure>> + Send;
}

/// Until when a caller waits, and how many nodes passed its call on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By {
    pub(crate) deadline: Instant,
    pub(crate) hops: u32,
}

/// An answer, and where it comes from if that is another node.
#[derive(Debug)]
pub(crate) struct Carried<T> {
    pub(crate) answer: T,
    pub(crate) owner: Option<Arc<str>>,
}

/// Where a partition is, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// This node takes the call, or says best why not.
    Here,
    There {
        address: String,
    },
    /// This node reads its log at the moment.
    Soon,
    Nobody,
}

/// See the module's text.
#[derive(Debug)]
pub struct Router {
    here: Coordinator,
    node: String,
    partitions: u16,
    view: watch::Receiver<Arc<View>>,
    pool: Pool,
    gates: Gates,
    tidings: Arc<Tidings>,
}

impl Router {
    /// A router for the node whose engine `here` is.
    #[must_use]
    pub fn new(here: Coordinator, view: watch::Receiver<Arc<View>>, tidings: Arc<Tidings>) -> Self {
        let info = here.info();
        Self {
            here,
            node: info.node,
            partitions: info.partitions,
            view,
            pool: Pool::default(),
            gates: Gates::default(),
            tidings,
        }
    }

    /// Connects to the other nodes by this, if it is given, instead of TCP.
    #[must_use]
    pub fn connecting(mut self, connector: Option<Connector>) -> Self {
        self.pool.connector = connector;
        self
    }

    /// The cluster as this node saw it last.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// What a stream is told of the cluster.
    #[must_use]
    pub fn news(&self) -> TopologyNews {
        TopologyNews::new(self.view.clone())
    }

    /// Why no calls are to be sent to this node, whatever its partitions do: it stops, or its cluster does not have it.
    pub(crate) fn out_of_service(&self) -> Option<String> {
        let view = self.view.borrow();
        if let Some(why) = &view.refused {
            return Some(format!("the cluster does not have this node: {why}"));
        }
        view.row(&self.node).filter(|row| row.leaving).map(|_| "this node is shutting down".to_owned())
    }

    pub(super) fn tidings(&self) -> &Tidings {
        &self.tidings
    }

    /// This node's engine.
    pub(super) fn here(&self) -> &Coordinator {
        &self.here
    }

    /// Of which partition an xid is.
    pub(crate) fn partition_of(&self, xid: Xid) -> PartitionId {
        partition_of(xid, self.partitions)
    }

    /// An xid of a partition that works here, if any does, with the partition's ticket: so no other node is asked to
    /// begin what may as well begin here.
    pub(crate) fn mint(&self) -> (Xid, Option<Ticket>) {
        let tickets = self.here.tickets();
        let mut xid = Xid::new(wall_clock::mint());
        for _ in 0..MINT_TRIES {
            let partition = self.partition_of(xid);
            if let Some((_, ticket)) = tickets.iter().find(|(own, _)| *own == partition)
                && self.here.is_here(partition)
            {
                return (xid, Some(*ticket));
            }
            if tickets.is_empty() {
                break;
            }
            xid = Xid::new(wall_clock::mint());
        }
        (xid, None)
    }

    /// Brings a call to the owner of `to`.
    ///
    /// # Errors
    /// What the owner says; `unavailable` if none takes it in time; `outcome_unknown` if it may have been carried out.
    pub(crate) async fn carry<C: Call>(
        &self,
        call: &C,
        to: PartitionId,
        by: By,
    ) -> Result<Carried<C::Answer>, Error> {
        if to.0 >= self.partitions {
            // Nobody's: the engine says so.
            return call.here().await.map(|answer| Carried { answer, owner: None });
        }
        let mut first = None;
        // Nearly always: the partition is here, and stays while it answers.
        if self.here.is_here(to) {
            match call.here().await {
                Ok(answer) => return Ok(Carried { answer, owner: None }),
                Err(error) => match Failure::of(error) {
                    Failure::Refused(error) => return Err(error),
                    failure => first = Some(failure),
                },
            }
        }
        Box::pin(self.carry_on(call, to, by, first)).await
    }

    /// The same for a call that this node does not, or did not, take.
    async fn carry_on<C: Call>(
        &self,
        call: &C,
        to: PartitionId,
        by: By,
        first: Option<Failure>,
    ) -> Result<Carried<C::Answer>, Error> {
        let mut view = self.view.clone();
        let mut bell = self.gates.bell();
        let mut tries = Tries { unknown: None, pause: PAUSE_MIN, hint: None };
        let left = by.deadline.saturating_duration_since(Instant::now());
        let until = by.deadline - DEADLINE_MARGIN.min(left / 10);
        let mut failed = first.map(|failure| (Place::Here, failure));
        loop {
            if let Some((place, failure)) = failed.take() {
                let is_last = by.hops > 0;
                tries.after(failure, &place, call.is_repeatable(), is_last).map_err(|error| {
                    // Whoever passed it on to us asks there.
                    match self.known_owner(to) {
                        Some(address) if is_last && error.code == ErrorCode::NotOwner => {
                            error.owned_by(address)
                        }
                        _ => error,
                    }
                })?;
                if place == Place::Here {
                    // It believes to have it and does not take it: its state is about to change.
                    let wake = (Instant::now() + tries.next_pause()).min(until);
                    let pause = self.wait(to, &PartitionState::Running, &mut view, &mut bell, wake);
                    unless_given_up(call, pause).await;
                }
            }
            if Instant::now() >= until || call.given_up().is_some_and(CancellationToken::is_cancelled) {
                return Err(tries.give_up(self.nobody(to)));
            }
            view.mark_unchanged();
            bell.mark_unchanged();
            // No node has it: this one says so as well as any.
            let Some(state) = self.here.state_of(to) else {
                return call.here().await.map(|answer| Carried { answer, owner: None });
            };
            let place = self.place(to, &state, tries.hint.take());
            if place == Place::Nobody
                && by.hops == 0
                && let Some(error) = self.not_known(to)
            {
                // Another node may see more.
                return Err(tries.give_up(error));
            }
            let look_again = Instant::now() + LOOK_INTERVAL;
            match &place {
                Place::Here => match call.here().await {
                    Ok(answer) => return Ok(Carried { answer, owner: None }),
                    Err(error) => failed = Some((place, Failure::of(error))),
                },
                Place::There { address } if by.hops >= HOPS_MAX => {
                    let message =
                        format!("partition {to} went to another node while the call was on its way");
                    let error = Error::new(ErrorCode::Unavailable, message);
                    return Err(error.retry_after(PAUSE_MAX).owned_by(address));
                }
                Place::There { address } => match self.gates.pass(to, address) {
                    Ok(()) => match self.pass_on(call, to, address, by, until).await {
                        Ok(Carried { answer, owner }) => {
                            let owner = Some(owner.unwrap_or_else(|| address.as_str().into()));
                            return Ok(Carried { answer, owner });
                        }
                        Err(failure) => failed = Some((place, failure)),
                    },
                    // Only where the call came in it waits.
                    Err(_) if by.hops > 0 => return Err(self.not_here(to)),
                    Err(opens_at) => {
                        let wake = opens_at.min(look_again).min(until);
                        unless_given_up(call, self.wait(to, &state, &mut view, &mut bell, wake)).await;
                    }
                },
                Place::Nobody if by.hops > 0 => return Err(self.not_here(to)),
                Place::Soon | Place::Nobody => {
                    let wake = look_again.min(until);
                    unless_given_up(call, self.wait(to, &state, &mut view, &mut bell, wake)).await;
                }
            }
        }
    }

    /// Passes a call on to the node at `address`, and gives it up when the partition goes elsewhere: a node that
    /// sleeps, or that was cut off, answers when nobody waits any more.
    async fn pass_on<C: Call>(
        &self,
        call: &C,
        to: PartitionId,
        address: &str,
        by: By,
        until: Instant,
    ) -> Result<Carried<C::Answer>, Failure> {
        let lane = self.pool.lane(address).map_err(|error| {
            // An owner with an address that nothing can be sent to is not to be asked again and again.
            self.gates.close(to, address);
            Failure::of(error)
        })?;
        let sent = timeout_at(until, call.there(&lane, by.hops + 1, until));
        let result = tokio::select! {
            biased;
            result = sent => result.unwrap_or_else(|_| Err(Failure::Broken(broke(address)))),
            () = self.goes_elsewhere(to, address) => Err(Failure::Broken(broke(address))),
            // It says nothing about the node.
            () = given_up(call) => return Err(Failure::Broken(broke(address))),
        };
        match &result {
            Ok(_) | Err(Failure::Refused(_)) => self.gates.open(to, address),
            Err(Failure::NotTaken(_) | Failure::Broken(_)) => self.gates.close(to, address),
        }
        result
    }

    /// Resolves when the partition has another owner than the one at `address`.
    async fn goes_elsewhere(&self, to: PartitionId, address: &str) {
        let mut view = self.view.clone();
        view.mark_unchanged();
        let owner = |view: &View| view.owner(to).map(|(_, address)| address.to_owned());
        let before = owner(&view.borrow());
        loop {
            let state = self.here.state_of(to).unwrap_or(PartitionState::Closed);
            if matches!(state, PartitionState::Running) {
                return;
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = self.here.left_state(to, &state) => {}
            }
            // Where the call went by a hint, the view is the one that has to come round first.
            let now = owner(&view.borrow_and_update());
            if now != before && now.as_deref() != Some(address) && now.is_some() {
                return;
            }
        }
    }

    /// Waits until something may be different, or until `wake`.
    async fn wait(
        &self,
        to: PartitionId,
        state: &PartitionState,
        view: &mut watch::Receiver<Arc<View>>,
        bell: &mut watch::Receiver<()>,
        wake: Instant,
    ) {
        let owner = |view: &View| view.owner(to).map(|(node, address)| (node.to_owned(), address.to_owned()));
        let before = owner(&view.borrow());
        let other_owner = async {
            while view.changed().await.is_ok() {
                if owner(&view.borrow_and_update()) != before {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let rung = async {
            if bell.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = other_owner => {}
            () = self.here.left_state(to, state) => {}
            () = rung => {}
            () = sleep_until(wake) => {}
        }
    }

    fn place(&self, to: PartitionId, state: &PartitionState, hint: Option<String>) -> Place {
        let hint = hint.filter(|hint| !self.is_own(hint));
        let there = hint.or_else(|| self.known_owner(to)).map(|address| Place::There { address });
        match state {
            PartitionState::Running => Place::Here,
            PartitionState::Recovering => Place::Soon,
            // It does not work here: another node took it over meanwhile, or nobody can.
            PartitionState::Unavailable(_) | PartitionState::Stopped(_) => there.unwrap_or(Place::Here),
            PartitionState::Waiting(_) | PartitionState::Closed => there.unwrap_or(Place::Nobody),
        }
    }

    fn is_own(&self, address: &str) -> bool {
        let view = self.view.borrow();
        view.row(&self.node).is_some_and(|row| row.address == address)
    }

    /// Where the owner of a partition is, if that is another node.
    pub(super) fn owner_of(&self, partition: PartitionId) -> Option<String> {
        let state = self.here.state_of(partition)?;
        match self.place(partition, &state, None) {
            Place::There { address } => Some(address),
            Place::Here | Place::Soon | Place::Nobody => None,
        }
    }

    /// The other living nodes that can be asked: names and addresses. Forgets the connections to all others.
    pub(super) fn others(&self) -> Vec<(String, String)> {
        let view = Arc::clone(&self.view.borrow());
        self.pool.keep(|address| view.living().any(|node| node.address == address));
        let others = view.living().filter(|node| node.node != self.node);
        others.map(|node| (node.node.clone(), node.address.clone())).collect()
    }

    /// A place for a call to another node.
    pub(super) fn lane(&self, address: &str) -> Result<Lane, Error> {
        self.pool.lane(address)
    }

    /// Who holds the partition's lease, if that is another node.
    fn known_owner(&self, partition: PartitionId) -> Option<String> {
        let view = self.view.borrow();
        let (node, address) = view.owner(partition)?;
        (node != self.node && !address.is_empty()).then(|| address.to_owned())
    }

    /// What a caller is told while this node does not see its cluster.
    fn not_known(&self, partition: PartitionId) -> Option<Error> {
        let view = self.view.borrow();
        let why = view.stale.as_ref()?;
        let message = format!(
            "this node has not seen its cluster for a lease ({why}), so who owns partition {partition} is not known \
             here; ask another node, or this one later"
        );
        Some(Error::new(ErrorCode::Unavailable, message).retry_after(Duration::from_millis(500)))
    }

    /// What a node is told that passed a call on: it was not taken, and that node asks again.
    fn not_here(&self, partition: PartitionId) -> Error {
        Error { code: ErrorCode::NotOwner, ..self.nobody(partition) }
    }

    fn nobody(&self, partition: PartitionId) -> Error {
        let message = match self.view.borrow().unserved(partition) {
            Some(why) => format!("nobody can serve partition {partition}: {why}; nothing is lost, try again"),
            None => {
                format!(
                    "nobody takes calls for partition {partition} at the moment; nothing is lost, try again"
                )
            }
        };
        let error = Error::new(ErrorCode::Unavailable, message).retry_after(Duration::from_millis(500));
        match self.known_owner(partition) {
            Some(address) => error.owned_by(address),
            None => error,
        }
    }
}

/// Resolves when nobody waits for a call's answer any more.
async fn given_up<C: Call>(call: &C) {
    match call.given_up() {
        Some(given_up) => given_up.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Waits, but not for somebody who is gone.
async fn unless_given_up<C: Call>(call: &C, wait: impl Future<Output = ()>) {
    tokio::select! {
        () = wait => {}
        () = given_up(call) => {}
    }
}

/// What a call's tries came to.
struct Tries {
    /// It may have been carried out: what its caller is told if nobody answers it any more.
    unknown: Option<Error>,
    pause: Duration,
    /// Where the last one said that the owner is.
    hint: Option<String>,
}

impl Tries {
    /// After a try that did not come to an answer; an error if it was the last.
    fn after(
        &mut self,
        failure: Failure,
        place: &Place,
        is_repeatable: bool,
        is_last: bool,
    ) -> Result<(), Error> {
        match failure {
            // Without the address, which would say that the owner did not take it: its log is away.
            Failure::Refused(error) if is_last && error.code == ErrorCode::Unavailable => Err(error),
            Failure::Refused(error) => Err(self.give_up(at_owner(error, place))),
            Failure::Broken(error) if is_last || !is_repeatable => Err(at_owner(error, place)),
            Failure::Broken(error) => {
                self.unknown = Some(at_owner(error, place));
                Ok(())
            }
            // That it was not taken is all that whoever passed it on to us needs to know.
            Failure::NotTaken(error) if is_last => Err(Error { code: ErrorCode::NotOwner, ..error }),
            Failure::NotTaken(error) => {
                if let Place::There { address } = place {
                    self.hint = error.owner.filter(|hint| hint != address);
                }
                Ok(())
            }
        }
    }

    /// What the caller is told.
    fn give_up(&mut self, error: Error) -> Error {
        let says_nothing = matches!(
            error.code,
            ErrorCode::Unavailable | ErrorCode::NotOwner | ErrorCode::TooBusy | ErrorCode::DeadlineExceeded
        );
        match self.unknown.take() {
            Some(unknown) if says_nothing => unknown,
            _ => error,
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// A node that stops answers no look that another one waits for.
pub(crate) fn closing() -> Error {
    Error::new(ErrorCode::NotOwner, "the partition's owner is shutting down").elsewhere()
}

/// The owner's own error, with where it is.
fn at_owner(error: Error, place: &Place) -> Error {
    match place {
        Place::There { address } if error.owner.is_none() => error.owned_by(address),
        _ => error,
    }
}
