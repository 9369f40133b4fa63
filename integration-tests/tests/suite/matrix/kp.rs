//! Rows K1, K4, K5 and P1 to P5: a participant dies around its local transactions, with TCC hooks or an XA resource.
//!
//! Its TM gets no answer: it repeats the call, or aborts. What the participant owes comes again when it is back.

use anyhow::{Context as _, bail, ensure};
use integration_tests::output::say;
use integration_tests::wait::until;
use serde_json::json;
use unanimity_proto::v1;

use super::peer::{Peer, effects, prepared};
use super::story::{Outcome, Story, Stuck, Tm, Tx};
use super::world::{World, died};

/// Transactions that are driven at most until the armed process dies.
const DRIVEN_MAX: usize = 3;
const KEY: &str = "branch";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcc,
    Xa,
}

/// A case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    row: &'static str,
    kind: Kind,
    pub(super) point: &'static str,
    hit: u32,
    pub(super) again: &'static [&'static str],
    /// Whether the TM repeats a call without an answer, and commits; else it aborts.
    commits: bool,
}

const fn case(row: &'static str, kind: Kind, point: &'static str, hit: u32, commits: bool) -> Case {
    Case { row, kind, point, hit, again: &[], commits }
}

impl Case {
    const fn again(self, again: &'static [&'static str]) -> Self {
        Self { again, ..self }
    }
}

use Kind::{Tcc, Xa};

pub(super) const CASES: &[Case] = &[
    // The try is done, its answer lost: repeated and confirmed once, or cancelled once.
    case("K1", Tcc, "try.after_commit", 1, true),
    case("K1", Tcc, "try.after_commit", 2, false),
    case("K1", Tcc, "try.after_commit", 1, false).again(&["second.after_commit"]),
    // The second phase is done, its answer lost.
    case("K4", Tcc, "second.after_commit", 1, true),
    case("K4", Tcc, "second.after_commit", 2, false),
    // Between fence and effect there is nothing: both, or neither.
    case("K5", Tcc, "try.before_commit", 1, true).again(&["try.after_commit"]),
    case("K5", Tcc, "try.before_commit", 2, false),
    case("K5", Tcc, "second.before_commit", 1, true).again(&["second.before_commit", "second.after_commit"]),
    case("K5", Tcc, "second.before_commit", 2, false),
    // The work is done, and not prepared: nothing is left of it.
    case("P1", Xa, "xa.before_prepare", 1, false),
    case("P1", Xa, "xa.before_prepare", 2, true).again(&["xa.before_prepare"]),
    // Prepared, and nobody heard of it: looked up, and it obeys.
    case("P2", Xa, "xa.after_prepare", 1, true),
    case("P2", Xa, "xa.after_prepare", 2, true).again(&["xa.before_commit"]),
    case("P3", Xa, "xa.after_prepare", 1, false),
    case("P3", Xa, "xa.after_prepare", 2, false).again(&["xa.before_rollback", "xa.after_rollback"]),
    // In doubt: it stays as it is until somebody decides.
    case("P4", Xa, "xa.before_rollback", 1, false),
    case("P4", Xa, "xa.before_commit", 1, true).again(&["xa.before_commit"]),
    // Committed, and its answer lost: the ledger says so.
    case("P5", Xa, "xa.after_commit", 1, true),
    case("P5", Xa, "xa.after_commit", 2, true).again(&["xa.before_commit"]),
    case("P5", Xa, "xa.after_rollback", 1, false),
];

/// A transaction under way.
struct Run<'a> {
    case: &'a Case,
    tm: Tm<'a>,
    peer: Peer,
    bank_url: String,
}

impl Run<'_> {
    /// Begins, and registers the branch where the participant does not do so itself.
    async fn begin(&self, tx: &Tx) -> anyhow::Result<()> {
        let mut client = self.tm.client.clone();
        client.begin(self.tm.begin(tx)).await?;
        if self.case.kind == Xa {
            let to = |path: &str| Some(v1::Target { kind: Some(v1::target::Kind::Url(self.peer.url(path))) });
            let targets =
                v1::BranchTargets { commit: to("commit"), rollback: to("rollback"), ..Default::default() };
            let two_phase = Some(v1::TwoPhaseOptions { early: true, ..Default::default() });
            let (xid, key) = (tx.xid.clone(), KEY.to_owned());
            let targets = Some(targets);
            let request = v1::RegisterBranchRequest { xid, key, targets, two_phase, ..Default::default() };
            client.register_branch(request).await?;
        }
        Ok(())
    }

    /// The first phase; `None` if the participant died.
    async fn first_phase(&mut self, tx: &Tx) -> anyhow::Result<Option<u16>> {
        let path = if self.case.kind == Tcc { "try" } else { "work" };
        // The same call, however often it is made.
        let header = format!("{};call=matrix", tx.xid);
        let body = json!({ "xid": tx.xid, "key": KEY });
        Ok(self.peer.post(path, &header, &body).await?.map(|(status, _)| status))
    }

    async fn decide(&self, tx: &mut Tx) -> anyhow::Result<()> {
        let mut client = self.tm.client.clone();
        let xid = tx.xid.clone();
        let answer = if self.case.commits {
            client.commit(v1::CommitRequest { xid, ..Default::default() }).await?
        } else {
            client.abort(v1::AbortRequest { xid, ..Default::default() }).await?
        };
        tx.told.push(match answer.get_ref().status() {
            v1::Status::Committing | v1::Status::Committed => Outcome::Committed,
            _ => Outcome::Aborted,
        });
        Ok(())
    }

    /// Waits for the end of a transaction, or of the participant.
    async fn end_or_death(&mut self, tx: &Tx) -> anyhow::Result<()> {
        let (tm, process) = (&self.tm, &mut self.peer.process);
        until("the end of either", super::world::DEATH, async || {
            if process.ended()?.is_some() {
                return Ok(());
            }
            let shown = tm.look(&tx.xid).await?.context("it is unknown")?;
            ensure!(matches!(shown.status(), v1::Status::Committed | v1::Status::Aborted), "{shown:?}");
            Ok(())
        })
        .await
    }

    async fn verify(&self, tx: &Tx) -> anyhow::Result<()> {
        let effects = effects(&self.bank_url, &tx.xid).await?;
        let effects: Vec<&str> = effects.iter().map(String::as_str).collect();
        let good = match (self.case.kind, self.case.commits) {
            (Tcc, true) => effects == ["try", "confirm"],
            (Tcc, false) => effects.is_empty() || effects == ["try", "cancel"],
            (Xa, true) => effects == ["work"],
            (Xa, false) => effects.is_empty(),
        };
        ensure!(good, "{:?} left {effects:?} of {tx:?}", self.case);
        let wanted = if self.case.commits { Outcome::Committed } else { Outcome::Aborted };
        ensure!(tx.told.iter().all(|told| *told == wanted), "{tx:?}");
        Ok(())
    }
}

async fn run_case(case: &Case) -> anyhow::Result<()> {
    let mut world = World::new(&format!("matrix-{}", case.row.to_lowercase())).await?;
    world.start().await?;
    let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
    let peer = Peer::new(&world, &tm, "participant").await?;
    let mut run = Run { case, tm, peer, bank_url: world.bank_url.clone() };
    run.peer.start(Some((case.point, case.hit))).await?;
    let mut txs: Vec<Tx> = Vec::new();
    let mut decided = false;
    while txs.len() < DRIVEN_MAX && run.peer.process.ended()?.is_none() {
        let story = if case.kind == Tcc { Story::Tcc } else { Story::Early };
        txs.push(Tx::new(story, std::time::Duration::from_secs(120)));
        let tx = txs.last_mut().context("just pushed")?;
        run.begin(tx).await?;
        decided = match run.first_phase(tx).await? {
            None => false,
            Some(200) => true,
            Some(status) => bail!("the first phase was refused: {status}"),
        };
        if decided {
            run.decide(tx).await?;
            run.end_or_death(tx).await?;
        }
    }
    died(&mut run.peer.process, case.point, case.hit).await?;
    let mut tx = txs.pop().context("no transaction")?;
    if !decided && !case.commits {
        run.decide(&mut tx).await?;
        decided = true;
    }
    for point in case.again {
        run.peer.start(Some((point, 1))).await?;
        let asks = !decided && (point.starts_with("try.") || *point == "xa.before_prepare");
        if asks {
            ensure!(run.first_phase(&tx).await?.is_none(), "{point} was passed");
        } else if !decided {
            // What was prepared is still so, and votes.
            ensure!(run.first_phase(&tx).await? == Some(200), "it does not answer as before");
            run.decide(&mut tx).await?;
            decided = true;
        }
        died(&mut run.peer.process, point, 1).await?;
    }
    run.peer.start(None).await?;
    if !decided {
        if case.point == "xa.after_prepare" {
            // Nobody decides alone.
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            ensure!(prepared(&run.bank_url).await? == 1, "a branch in doubt did not stay prepared");
        }
        ensure!(run.first_phase(&tx).await? == Some(200), "the repeated call is not answered as the first");
        run.decide(&mut tx).await?;
    }
    match run.tm.finished(&mut tx).await {
        Ok(()) => {}
        Err(Stuck::NoAnswer(why)) => bail!("no answer: {why}"),
        Err(Stuck::Wrong(error)) => return Err(error),
    }
    txs.push(tx);
    for tx in &txs {
        run.verify(tx).await?;
    }
    ensure!(prepared(&run.bank_url).await? == 0, "something stayed prepared");
    if !case.commits {
        // Late: refused, without effect (row K3).
        let tx = txs.last().context("no transaction")?;
        let late = run.first_phase(tx).await?;
        ensure!(late == Some(409), "a late call is answered {late:?}");
        run.verify(tx).await?;
        ensure!(prepared(&run.bank_url).await? == 0, "a late call prepared something");
    }
    Ok(())
}

async fn run(row: &str) {
    let started = std::time::Instant::now();
    let mut deaths = 0;
    let mut failed = Vec::new();
    for case in CASES.iter().filter(|case| case.row == row) {
        deaths += 1 + case.again.len();
        if let Err(error) = run_case(case).await {
            failed.push(format!("{case:?}: {error:#}"));
        }
    }
    assert!(deaths > 0, "{row} has no cases");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    say(&format!("{row}: {deaths} deaths of a participant, {:.1} s", started.elapsed().as_secs_f32()));
}

macro_rules! rows {
    ($(async fn $name:ident() = $row:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                run($row).await;
            }
        )*
    };
}

rows! {
    async fn k1_a_try_whose_answer_was_lost_ends_once() = "K1";
    async fn k4_a_second_phase_whose_answer_was_lost_is_done_once() = "K4";
    async fn k5_fence_and_effect_are_both_there_or_neither() = "K5";
    async fn p1_what_was_not_prepared_leaves_nothing() = "P1";
    async fn p2_what_was_prepared_unheard_obeys_a_commit() = "P2";
    async fn p3_what_was_prepared_unheard_is_rolled_back() = "P3";
    async fn p4_in_doubt_nobody_decides_alone() = "P4";
    async fn p5_a_commit_whose_answer_was_lost_is_known_by_its_ledger_row() = "P5";
}
