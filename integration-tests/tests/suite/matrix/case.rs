//! A case of the matrix: where the coordinator dies, how often, and what must be true in the end.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use integration_tests::output::say;
use unanimity_proto::v1;

use super::story::{Outcome, Story, Stuck, Tm, Tx, ended};
use super::world::{World, died};

/// Cases of one row at a time: they wait more than they work.
const AT_ONCE: usize = 3;
/// Transactions that are driven at most until the armed one dies.
const DRIVEN_MAX: u32 = 5;
/// The timeout where the TM comes back: longer than any case.
const LONG: Duration = Duration::from_secs(120);
/// The timeout where only the deadline ends it: long enough for a busy machine to come to the point.
const SHORT: Duration = Duration::from_secs(4);
/// How long after the last restart everything may take.
const SETTLED: Duration = Duration::from_secs(40);
/// Longer than from one write to history to the next.
const HISTORY_EVERY: Duration = Duration::from_millis(700);

/// What must become of the transaction in which the coordinator died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Committed,
    Aborted,
    /// Either, everywhere the same: the votes are collected again.
    Either,
    /// It never was.
    Nothing,
}

/// What goes wrong besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The participants are away while the coordinator recovers.
    Down,
    /// Each operation is carried out, and its first answer is lost.
    LostReply,
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) row: &'static str,
    pub(super) point: &'static str,
    story: Story,
    want: Want,
    hit: u32,
    /// Points at which the restarts die in their turn.
    pub(super) again: &'static [&'static str],
    fault: Fault,
    /// Whether the TM comes back and goes its way again.
    tm_returns: bool,
}

impl Case {
    pub(super) const fn new(row: &'static str, story: Story, point: &'static str, want: Want) -> Self {
        Self { row, point, story, want, hit: 1, again: &[], fault: Fault::None, tm_returns: true }
    }

    /// Dies at the second hit, and then while it recovers.
    pub(super) const fn second(self) -> Self {
        Self { hit: 2, again: &["recover.after_read"], ..self }
    }

    /// The participants are away after the death, and while the next one recovers and dies.
    pub(super) const fn down(self) -> Self {
        let again: &[_] = if self.again.is_empty() { &["recover.after_epoch"] } else { self.again };
        Self { fault: Fault::Down, again, ..self }
    }

    /// Answers are lost.
    pub(super) const fn lossy(self) -> Self {
        Self { fault: Fault::LostReply, ..self }
    }

    /// The TM does not come back.
    pub(super) const fn gone(self) -> Self {
        Self { tm_returns: false, ..self }
    }

    /// Restarts die at these points.
    pub(super) const fn again(self, points: &'static [&'static str]) -> Self {
        Self { again: points, ..self }
    }

    fn name(&self) -> String {
        let Self { row, point, story, hit, again, fault, tm_returns, .. } = self;
        let again: String = again.iter().map(|point| format!(", then {point}")).collect();
        let fault = if *fault == Fault::None { String::new() } else { format!(", {fault:?}") };
        let gone = if *tm_returns { "" } else { ", TM gone" };
        format!("{row} {story:?} {point}@{hit}{again}{fault}{gone}")
    }

    /// Whether nothing but the deadline ends it.
    fn deadline_decides(&self) -> bool {
        !self.tm_returns && matches!(self.want, Want::Aborted | Want::Either)
    }

    async fn run(&self) -> anyhow::Result<()> {
        let name = format!("matrix-{}", self.row.to_lowercase());
        let mut world = World::new(&name).await?;
        if self.fault == Fault::LostReply {
            world.bank.lose_replies();
        }
        world.start_to_die(self.point, self.hit).await?;
        let txs = self.until_death(&mut world).await?;
        died(&mut world.coordinator.process, self.point, self.hit).await?;
        world.bank.set_down(self.fault == Fault::Down);
        for point in self.again {
            world.die_recovering(point).await?;
        }
        world.start().await?;
        if self.fault == Fault::Down {
            // Long enough for what is owed to be tried, and to fail.
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.bank.set_down(false);
        }
        tokio::time::timeout(SETTLED, self.judge(&world, txs)).await.context("not settled in time")?
    }

    /// Drives transactions until there is no answer any more.
    async fn until_death(&self, world: &mut World) -> anyhow::Result<Vec<Tx>> {
        let timeout = match self.story {
            // Their submit never comes.
            Story::CheckBack | Story::CheckBackNo => Duration::from_millis(500),
            // Without its TM a message waits for the check-back, which comes at the timeout.
            Story::Message if !self.tm_returns => SHORT,
            _ if self.deadline_decides() => SHORT,
            _ => LONG,
        };
        let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
        let mut txs = Vec::new();
        for _ in 0..DRIVEN_MAX {
            let mut tx = Tx::new(self.story, timeout);
            let driven = tm.drive(&mut tx).await;
            txs.push(tx);
            match driven {
                Ok(()) => {}
                Err(Stuck::NoAnswer(_)) => return Ok(txs),
                Err(Stuck::Wrong(error)) => return Err(error),
            }
            // What follows the end by itself has a moment to come: a write to history takes what ended since the
            // last one, so that without it all of these would go in one.
            if self.point.starts_with("project.") {
                tokio::time::sleep(HISTORY_EVERY).await;
            }
            if world.coordinator.process.ended()?.is_some() {
                return Ok(txs);
            }
        }
        Ok(txs)
    }

    async fn judge(&self, world: &World, mut txs: Vec<Tx>) -> anyhow::Result<()> {
        let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
        let last = txs.len() - 1;
        for (at, tx) in txs.iter_mut().enumerate() {
            let hit = at == last;
            if hit && self.want == Want::Nothing {
                ensure!(tm.look(&tx.xid).await?.is_none(), "{tx:?} is there");
                ensure!(world.bank.effects(&tx.xid).await?.is_empty(), "{tx:?} has effects");
                continue;
            }
            let goes_on = if hit && self.tm_returns { tm.drive(tx).await } else { tm.finished(tx).await };
            match goes_on {
                Ok(()) => {}
                Err(Stuck::NoAnswer(why)) => bail!("no answer after the restart: {why}"),
                Err(Stuck::Wrong(error)) => return Err(error),
            }
            let shown = tm.look(&tx.xid).await?.with_context(|| format!("{tx:?} is unknown"))?;
            let outcome = ended(&shown)?;
            let wanted = match hit {
                true => self.want,
                // On a machine that is slow enough the deadline came first.
                false if self.deadline_decides() => Want::Either,
                false => tx.story.end().into(),
            };
            let good = match wanted {
                Want::Committed => outcome == Outcome::Committed,
                Want::Aborted => outcome == Outcome::Aborted,
                Want::Either => true,
                Want::Nothing => false,
            };
            ensure!(good, "{tx:?} must be {wanted:?} and is {outcome:?}: {shown:?}");
            tx.verify(&world.bank, outcome).await?;
            unique_branches(&shown)?;
        }
        if self.story == Story::Locked {
            // Whoever comes next gets the lock.
            let mut next = Tx::new(self.story, LONG);
            tm.drive(&mut next).await.map_err(|stuck| anyhow::anyhow!("the lock is not free: {stuck:?}"))?;
            next.verify(&world.bank, Outcome::Committed).await?;
        }
        Ok(())
    }
}

impl From<Outcome> for Want {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Committed => Self::Committed,
            Outcome::Aborted => Self::Aborted,
        }
    }
}

/// The same key is the same branch, however often it was registered.
fn unique_branches(shown: &v1::Transaction) -> anyhow::Result<()> {
    let mut keys: Vec<&str> = shown.branches.iter().map(|branch| branch.key.as_str()).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    ensure!(keys.len() == all, "a branch is there twice: {shown:?}");
    Ok(())
}

/// Runs all cases of a row.
pub(super) async fn run(cases: &[Case], row: &str) {
    let of_row: Vec<&Case> = cases.iter().filter(|case| case.row == row).collect();
    assert!(!of_row.is_empty(), "{row} has no cases");
    let started = std::time::Instant::now();
    let failed: Vec<String> = futures::stream::iter(&of_row)
        .map(async |case| case.run().await.err().map(|error| format!("{}: {error:#}", case.name())))
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(failed.is_empty(), "{} of {} cases of {row}:\n{}", failed.len(), of_row.len(), failed.join("\n"));
    let kills: usize = of_row.iter().map(|case| 1 + case.again.len()).sum();
    say(&format!("{row}: {} cases, {kills} deaths, {:.1} s", of_row.len(), started.elapsed().as_secs_f32()));
}
