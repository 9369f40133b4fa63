//! What a TM does in a case, from begin to end, by gRPC; and what must stand in the participants' databases then.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tonic::transport::{Channel, Endpoint};
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_proto::{error_from_status, v1};
use uuid::Uuid;

use super::bank::{Bank, Reply};

/// What a transaction is and how it goes where nothing dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Story {
    /// Two TCC branches; commit.
    Tcc,
    /// The same, under a lock key that all transactions of the case want.
    Locked,
    /// Two TCC branches; abort.
    TccAbort,
    /// Two branches that prepare when they are asked; commit.
    Late,
    /// The same, and the second one refuses to prepare.
    LateRefused,
    /// Two branches that vote by themselves; commit.
    Early,
    /// One branch that is committed without a prepare.
    OnePhase,
    /// One branch that refuses that.
    OnePhaseRefused,
    /// A saga of three steps, one after the other.
    Saga,
    /// The third step refuses.
    SagaRefused,
    /// The third step refuses, and then the compensation of the second one too, for a while.
    SagaParked,
    /// Prepared, sent, submitted.
    Message,
    /// Prepared and sent; the submit does not come.
    CheckBack,
    /// Prepared and neither sent nor submitted.
    CheckBackNo,
    /// Nobody began it; a participant asks about it.
    Presumed,
}

/// How a transaction ended, or what its TM was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    Aborted,
}

impl Story {
    /// How it ends where nothing dies.
    pub(super) fn end(self) -> Outcome {
        match self {
            Self::Tcc
            | Self::Locked
            | Self::Late
            | Self::Early
            | Self::OnePhase
            | Self::Saga
            | Self::Message
            | Self::CheckBack => Outcome::Committed,
            Self::TccAbort
            | Self::LateRefused
            | Self::OnePhaseRefused
            | Self::SagaRefused
            | Self::SagaParked
            | Self::CheckBackNo
            | Self::Presumed => Outcome::Aborted,
        }
    }

    /// What its participants refuse.
    pub(super) fn refuses(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::LateRefused => &[("b", "prepare")],
            Self::OnePhaseRefused => &[("a", "commit_one_phase")],
            Self::SagaRefused => &[("c", "action")],
            Self::SagaParked => &[("c", "action"), ("b", "compensate")],
            _ => &[],
        }
    }
}

/// A transaction of a story.
#[derive(Debug, Clone)]
pub(super) struct Tx {
    pub(super) story: Story,
    pub(super) xid: String,
    /// Until when it must be decided, from its begin on.
    pub(super) timeout: Duration,
    /// What its TM was told so far.
    pub(super) told: Vec<Outcome>,
}

/// Why a TM cannot go on.
#[derive(Debug)]
pub(super) enum Stuck {
    /// No answer, or one that says nothing: the coordinator may be dead.
    NoAnswer(String),
    /// Against all rules.
    Wrong(anyhow::Error),
}

impl From<anyhow::Error> for Stuck {
    fn from(error: anyhow::Error) -> Self {
        Self::Wrong(error)
    }
}

/// What a call ended with, apart from its answer.
enum Refused {
    NoAnswer(String),
    Decided(Outcome),
    No(String),
}

fn refused(status: &tonic::Status) -> Refused {
    let Some(detail) = error_from_status(status) else { return Refused::NoAnswer(status.to_string()) };
    match detail.code.as_str() {
        "already_decided" => match detail.status() {
            v1::Status::Aborting | v1::Status::Aborted => Refused::Decided(Outcome::Aborted),
            _ => Refused::Decided(Outcome::Committed),
        },
        "unavailable" | "outcome_unknown" | "not_owner" | "too_busy" | "deadline_exceeded" => {
            Refused::NoAnswer(status.to_string())
        }
        _ => Refused::No(status.to_string()),
    }
}

/// A TM, and the services that it calls.
pub(super) struct Tm<'a> {
    pub(super) client: CoordinatorClient<Channel>,
    pub(super) bank: &'a Bank,
}

/// An answer, or the end of the way for the TM: it was decided meanwhile.
macro_rules! ask {
    ($tm:expr, $tx:expr, $call:ident($request:expr)) => {
        match $tm.client.clone().$call($request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => match refused(&status) {
                Refused::Decided(outcome) => {
                    $tx.told.push(outcome);
                    return $tm.finished($tx).await;
                }
                Refused::NoAnswer(why) => return Err(Stuck::NoAnswer(why)),
                Refused::No(why) => {
                    return Err(anyhow::anyhow!("{} was refused: {why}", stringify!($call)).into());
                }
            },
        }
    };
}

impl<'a> Tm<'a> {
    pub(super) fn new(url: &str, bank: &'a Bank) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(20));
        Ok(Self { client: CoordinatorClient::new(endpoint.connect_lazy()), bank })
    }

    /// Goes the whole way of a transaction, or goes it again: with the same xid and keys.
    pub(super) async fn drive(&self, tx: &mut Tx) -> Result<(), Stuck> {
        for (key, operation) in tx.story.refuses() {
            self.bank.refuse(key, operation, true);
        }
        if tx.story == Story::Presumed {
            return self.ask_about(tx).await;
        }
        ask!(self, tx, begin(self.begin(tx)));
        match tx.story {
            Story::Tcc | Story::Locked | Story::TccAbort => self.tcc(tx).await,
            Story::Late | Story::LateRefused | Story::OnePhase | Story::OnePhaseRefused => {
                self.late(tx).await
            }
            Story::Early => self.early(tx).await,
            Story::Message => self.message(tx).await,
            Story::CheckBack => {
                self.bank.perform(&tx.xid, "sender", "send").await?;
                self.finished(tx).await
            }
            Story::Saga | Story::SagaRefused | Story::SagaParked | Story::CheckBackNo | Story::Presumed => {
                self.finished(tx).await
            }
        }
    }

    pub(super) fn begin(&self, tx: &Tx) -> v1::BeginRequest {
        let to = |operation: &str| Some(self.target(operation));
        let step = |name: &str| v1::SagaStep {
            name: name.to_owned(),
            action: to("action"),
            compensate: to("compensate"),
            ..Default::default()
        };
        let after = |name: &str, before: &str| v1::SagaStep { after: vec![before.to_owned()], ..step(name) };
        let delivery = v1::Delivery { key: "a".to_owned(), target: to("deliver"), ..Default::default() };
        let (mode, saga, message) = match tx.story {
            Story::Tcc | Story::Locked | Story::TccAbort | Story::Presumed => (v1::Mode::Tcc, None, None),
            Story::Late | Story::LateRefused | Story::Early | Story::OnePhase | Story::OnePhaseRefused => {
                (v1::Mode::TwoPhase, None, None)
            }
            Story::Saga | Story::SagaRefused | Story::SagaParked => {
                let steps = vec![step("a"), after("b", "a"), after("c", "b")];
                (v1::Mode::Saga, Some(v1::SagaPlan { steps }), None)
            }
            Story::Message | Story::CheckBack | Story::CheckBackNo => {
                let plan = v1::MessagePlan {
                    check_back: to("check_back"),
                    deliveries: vec![delivery],
                    ..Default::default()
                };
                (v1::Mode::Message, None, Some(plan))
            }
        };
        let timeout_ms = u64::try_from(tx.timeout.as_millis()).unwrap_or(u64::MAX);
        let (mode, name) = (mode.into(), "matrix".to_owned());
        v1::BeginRequest { mode, name, xid: tx.xid.clone(), timeout_ms, saga, message, ..Default::default() }
    }

    fn target(&self, operation: &str) -> v1::Target {
        v1::Target { kind: Some(v1::target::Kind::Url(self.bank.url(operation))) }
    }

    pub(super) fn branch(&self, tx: &Tx, key: &str) -> v1::RegisterBranchRequest {
        let to = |operation: &str| Some(self.target(operation));
        let (targets, two_phase) = match tx.story {
            Story::Tcc | Story::Locked | Story::TccAbort => (
                v1::BranchTargets { confirm: to("confirm"), cancel: to("cancel"), ..Default::default() },
                None,
            ),
            story => (
                v1::BranchTargets {
                    prepare: to("prepare"),
                    // The same address for one phase and two: the bank tells them apart by their operation.
                    commit: to(if matches!(story, Story::OnePhase | Story::OnePhaseRefused) {
                        "commit_one_phase"
                    } else {
                        "commit"
                    }),
                    rollback: to("rollback"),
                    ..Default::default()
                },
                Some(v1::TwoPhaseOptions {
                    early: story == Story::Early,
                    one_phase: matches!(story, Story::OnePhase | Story::OnePhaseRefused),
                    ..Default::default()
                }),
            ),
        };
        let lock_keys =
            if tx.story == Story::Locked && key == "a" { vec!["stock".to_owned()] } else { Vec::new() };
        let (xid, key, targets) = (tx.xid.clone(), key.to_owned(), Some(targets));
        // The one before is about to give it back.
        let lock_wait_ms = 10_000;
        v1::RegisterBranchRequest {
            xid,
            key,
            targets,
            two_phase,
            lock_keys,
            lock_wait_ms,
            ..Default::default()
        }
    }

    async fn tcc(&self, tx: &mut Tx) -> Result<(), Stuck> {
        let mut all = true;
        for key in ["a", "b"] {
            ask!(self, tx, register_branch(self.branch(tx, key)));
            all &= self.bank.perform(&tx.xid, key, "try").await? == Reply::Done;
        }
        if all && tx.story != Story::TccAbort {
            self.commit(tx, &["a", "b"]).await
        } else {
            self.abort(tx).await
        }
    }

    async fn late(&self, tx: &mut Tx) -> Result<(), Stuck> {
        let keys: &[&str] =
            if matches!(tx.story, Story::OnePhase | Story::OnePhaseRefused) { &["a"] } else { &["a", "b"] };
        let mut all = true;
        for key in keys {
            ask!(self, tx, register_branch(self.branch(tx, key)));
            all &= self.bank.perform(&tx.xid, key, "work").await? == Reply::Done;
        }
        if all { self.commit(tx, keys).await } else { self.abort(tx).await }
    }

    async fn early(&self, tx: &mut Tx) -> Result<(), Stuck> {
        for key in ["a", "b"] {
            ask!(self, tx, register_branch(self.branch(tx, key)));
            let worked = self.bank.perform(&tx.xid, key, "work").await? == Reply::Done
                && self.bank.perform(&tx.xid, key, "prepare").await? == Reply::Done;
            if !worked {
                return self.abort(tx).await;
            }
            let (xid, key) = (tx.xid.clone(), key.to_owned());
            ask!(self, tx, vote(v1::VoteRequest { xid, key, vote: v1::Vote::Prepared.into() }));
        }
        self.commit(tx, &["a", "b"]).await
    }

    async fn message(&self, tx: &mut Tx) -> Result<(), Stuck> {
        if self.bank.perform(&tx.xid, "sender", "send").await? == Reply::Done {
            self.commit(tx, &[]).await
        } else {
            self.abort(tx).await
        }
    }

    async fn commit(&self, tx: &mut Tx, keys: &[&str]) -> Result<(), Stuck> {
        let votes = (!keys.is_empty())
            .then(|| v1::VoteSet { keys: keys.iter().map(|key| (*key).to_owned()).collect() });
        let request = v1::CommitRequest { xid: tx.xid.clone(), votes, ..Default::default() };
        let answer = ask!(self, tx, commit(request));
        tell(tx, answer.status());
        self.finished(tx).await
    }

    async fn abort(&self, tx: &mut Tx) -> Result<(), Stuck> {
        let request = v1::AbortRequest { xid: tx.xid.clone(), ..Default::default() };
        let answer = ask!(self, tx, abort(request));
        tell(tx, answer.status());
        self.finished(tx).await
    }

    /// A participant in doubt asks; whoever comes later with that xid learns that it is aborted.
    async fn ask_about(&self, tx: &mut Tx) -> Result<(), Stuck> {
        let request = v1::InquireRequest { xids: vec![tx.xid.clone()], ..Default::default() };
        let answer = ask!(self, tx, inquire(request));
        if answer.answers.iter().any(|inquiry| inquiry.answer != "aborted") {
            return Err(anyhow::anyhow!("an unknown xid is not aborted: {answer:?}").into());
        }
        tx.told.push(Outcome::Aborted);
        let request = v1::CommitRequest { xid: tx.xid.clone(), ..Default::default() };
        ask!(self, tx, commit(request));
        Err(anyhow::anyhow!("a commit after a presumed abort was not refused").into())
    }

    /// Waits until every branch is settled, or parked where the story says so.
    pub(super) async fn finished(&self, tx: &mut Tx) -> Result<(), Stuck> {
        for _ in 0..400 {
            let parks = tx.story == Story::SagaParked;
            let (wait, wait_ms) = if parks { (v1::Wait::Accepted, 0) } else { (v1::Wait::Finished, 5_000) };
            let request = v1::GetTransactionRequest { xid: tx.xid.clone(), wait: wait.into(), wait_ms };
            let shown = match self.client.clone().get_transaction(request).await {
                Ok(shown) => shown.into_inner(),
                Err(status) => match refused(&status) {
                    Refused::NoAnswer(why) => return Err(Stuck::NoAnswer(why)),
                    Refused::Decided(_) | Refused::No(_) => {
                        return Err(anyhow::Error::new(status).context("looking at it").into());
                    }
                },
            };
            if matches!(shown.status(), v1::Status::Committed | v1::Status::Aborted) {
                tell(tx, shown.status());
                return Ok(());
            }
            if parks && shown.branches.iter().any(|branch| branch.parked) {
                self.after_parking(tx, &shown).await?;
            }
            if parks {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Err(anyhow::anyhow!("{tx:?} does not end").into())
    }

    /// Parked: visible, with attention, resumable (matrix row S6).
    async fn after_parking(&self, tx: &mut Tx, shown: &v1::Transaction) -> Result<(), Stuck> {
        if shown.attention.as_ref().is_none_or(|attention| attention.code != "parked") {
            return Err(anyhow::anyhow!("parked without attention: {shown:?}").into());
        }
        for (key, operation) in tx.story.refuses() {
            self.bank.refuse(key, operation, false);
        }
        let by = "the matrix".to_owned();
        let request = v1::RetryTransactionRequest { xid: tx.xid.clone(), operator: by.clone(), reason: by };
        match self.client.clone().retry_transaction(request).await {
            Ok(_) => Ok(()),
            Err(status) => match refused(&status) {
                Refused::NoAnswer(why) => Err(Stuck::NoAnswer(why)),
                // It ended between the look and this.
                Refused::Decided(_) => Ok(()),
                Refused::No(why) => Err(anyhow::anyhow!("the retry was refused: {why}").into()),
            },
        }
    }

    /// The transaction as it is shown; `None` where nobody knows it.
    pub(super) async fn look(&self, xid: &str) -> anyhow::Result<Option<v1::Transaction>> {
        let request = v1::GetTransactionRequest { xid: xid.to_owned(), ..Default::default() };
        match self.client.clone().get_transaction(request).await {
            Ok(shown) => Ok(Some(shown.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }
}

fn tell(tx: &mut Tx, status: v1::Status) {
    match status {
        v1::Status::Committing | v1::Status::Committed => tx.told.push(Outcome::Committed),
        v1::Status::Aborting | v1::Status::Aborted => tx.told.push(Outcome::Aborted),
        _ => {}
    }
}

impl Tx {
    pub(super) fn new(story: Story, timeout: Duration) -> Self {
        Self { story, xid: Uuid::new_v4().to_string(), timeout, told: Vec::new() }
    }

    /// Checks what stands in the participants' databases, and what the TM was told, against how it ended.
    pub(super) async fn verify(&self, bank: &Bank, outcome: Outcome) -> anyhow::Result<()> {
        let effects = bank.effects(&self.xid).await?;
        let context = || format!("{self:?} ended {outcome:?} with {effects:?}");
        ensure!(self.told.iter().all(|told| *told == outcome), "its TM was told otherwise: {}", context());
        let states = bank.states(&self.xid).await?;
        for (key, state) in &states {
            let of = |wanted: &str| effects.iter().filter(|(k, o)| k == key && o == wanted).count();
            let done = of("confirm") + of("commit") + of("commit_one_phase") + of("deliver");
            let begun = of("try") + of("work") + of("action") + of("send");
            let undone = of("cancel") + of("rollback") + of("compensate");
            ensure!(done <= 1 && begun <= 1 && undone <= 1, "twice at {key}: {}", context());
            ensure!(done + undone <= 1, "both ways at {key}: {}", context());
            let good = match (outcome, key.as_str()) {
                (Outcome::Committed, "sender") => begun == 1,
                (Outcome::Aborted, "sender") => begun == 0,
                (Outcome::Committed, _) if begun == 1 && done == 0 => of("action") == 1 && undone == 0,
                (Outcome::Committed, _) => done == 1,
                (Outcome::Aborted, _) => done == 0 && undone == begun && state != "prepared",
            };
            ensure!(good, "{key} is {state}: {}", context());
        }
        if outcome == Outcome::Committed {
            let wanted: &[&str] = match self.story {
                Story::Saga => &["a", "b", "c"],
                Story::OnePhase | Story::OnePhaseRefused => &["a"],
                Story::Message | Story::CheckBack | Story::CheckBackNo => &["a", "sender"],
                _ => &["a", "b"],
            };
            let there: Vec<&str> = states.keys().map(String::as_str).collect();
            ensure!(there == wanted, "branches without effect: {}", context());
        }
        if self.story == Story::Presumed && !effects.is_empty() {
            bail!("effects of nothing: {}", context());
        }
        Ok(())
    }
}

/// How it is shown to have ended.
pub(super) fn ended(shown: &v1::Transaction) -> anyhow::Result<Outcome> {
    match shown.status() {
        v1::Status::Committed => Ok(Outcome::Committed),
        v1::Status::Aborted => Ok(Outcome::Aborted),
        _ => Err(anyhow::anyhow!("{shown:?}")).context("it has not ended"),
    }
}
