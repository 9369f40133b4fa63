//! When it goes wrong: every kind in a random order, one fault after the other, or in two lanes that go on beside each other.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::iter::repeat_n;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::output::say;
use integration_tests::wait::until;
use tokio::time::sleep;

use super::super::clients::Clients;
use super::super::plan::Plan;
use super::super::stack::{READY_LIMIT, Stack};
use super::cluster::ClusterFault;
use super::stores::StoreFault;
use super::{Fault, Happened};

/// Transfers that must commit between two faults of a lane: work goes on by itself after each of them.
const COMMITS_BETWEEN: usize = 5;
/// How often the counters are told.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// The longest wait before a fault.
const PAUSE_MAX_MS: u64 = 500;
/// The same for banks and databases in a lane of their own: they are back so soon that hardly anything would get done.
const STORE_PAUSE_MAX_MS: u64 = 4_000;

/// What the lanes share.
struct Course<'a> {
    plan: Plan,
    clients: &'a Clients,
    started: Instant,
    happened: Mutex<Happened>,
    told: Mutex<Instant>,
    /// Every fault, with its moment: the logs of the processes lie beside it.
    record: File,
}

/// All faults until the plan is fulfilled; they happen under load.
pub(in super::super) async fn of_all_kinds(
    stack: &mut Stack,
    clients: &Clients,
    plan: Plan,
    random: &mut fastrand::Rng,
) -> anyhow::Result<Happened> {
    let course = Course {
        plan,
        clients,
        started: Instant::now(),
        happened: Mutex::default(),
        told: Mutex::new(Instant::now()),
        record: File::create(stack.scratch.path().join("faults.log"))?,
    };
    let owned = stack.owns_databases();
    let can_be = |fault: &Fault| owned || !fault.is_of_databases();
    if plan.is_soak() {
        let (mut of_cluster, mut of_stores) = (random.fork(), random.fork());
        let stores = StoreFault::ALL.into_iter().filter(|fault| can_be(&(*fault).into())).collect();
        let (cluster, banks) = (&mut stack.cluster, &mut stack.stores);
        tokio::try_join!(
            course.lane(ClusterFault::ALL.to_vec(), PAUSE_MAX_MS, &mut of_cluster, async |fault, random| {
                fault.happen(cluster, random).await
            }),
            course.lane(stores, STORE_PAUSE_MAX_MS, &mut of_stores, async |fault, random| {
                fault.happen(banks, random).await
            })
        )?;
    } else {
        let all = Fault::all().filter(can_be).collect();
        let lane = course.lane(all, PAUSE_MAX_MS, random, async |fault, random| match fault {
            Fault::Cluster(fault) => fault.happen(&mut stack.cluster, random).await,
            Fault::Store(fault) => fault.happen(&mut stack.stores, random).await,
        });
        lane.await?;
    }
    plan.enough(clients, course.started).await?;
    Ok(course.happened.into_inner().expect("no holder panics"))
}

impl Course<'_> {
    /// One fault after the other, in rounds of all of them.
    async fn lane<F: Copy + Into<Fault>>(
        &self,
        faults: Vec<F>,
        pause_max_ms: u64,
        random: &mut fastrand::Rng,
        mut happen: impl AsyncFnMut(F, &mut fastrand::Rng) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        loop {
            if self.plan.is_fulfilled(self.started.elapsed(), self.count(), self.clients.made()) {
                return Ok(());
            }
            let mut round: Vec<F> =
                faults.iter().flat_map(|fault| repeat_n(*fault, (*fault).into().times())).collect();
            random.shuffle(&mut round);
            for fault in round {
                if self.plan.is_over(self.started.elapsed(), self.count(), self.clients.made()) {
                    return Ok(());
                }
                sleep(Duration::from_millis(random.u64(..pause_max_ms))).await;
                let name: Fault = fault.into();
                let so_far = || format!("{name:?} after {}", self.so_far());
                let begun = Instant::now();
                let hit = happen(fault, random).await.with_context(so_far)?;
                let happens = begun.elapsed();
                // What one fault left behind need not be over before the next; but work must go on.
                self.progress().await.with_context(so_far)?;
                self.note(name, hit, happens, begun.elapsed().saturating_sub(happens))?;
            }
        }
    }

    fn count(&self) -> usize {
        self.happened.lock().expect("no holder panics").values().sum()
    }

    fn so_far(&self) -> String {
        let happened = self.happened.lock().expect("no holder panics");
        let all: usize = happened.values().sum();
        format!("{} transfers, {all} faults: {happened:?}", self.clients.made())
    }

    fn note(&self, fault: Fault, hit: bool, happens: Duration, until_work: Duration) -> anyhow::Result<()> {
        if hit {
            *self.happened.lock().expect("no holder panics").entry(fault).or_default() += 1;
        }
        let elapsed = self.started.elapsed().as_secs_f32();
        let mut line = format!("{elapsed:>4.0} s: {fault:?} for {:.1} s, ", happens.as_secs_f32());
        line.push_str(if hit { "hit" } else { "hit nothing" });
        write!(line, ", works again after {:.1} s; ", until_work.as_secs_f32())?;
        write!(line, "{} transfers", self.clients.made())?;
        writeln!(&self.record, "{line}")?;
        if !self.plan.is_soak() {
            say(&line);
        }
        let mut told = self.told.lock().expect("no holder panics");
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            say(&format!("{elapsed:.0} s: {}; {}", self.so_far(), self.clients.counts()));
        }
        Ok(())
    }

    /// Waits until a few more transfers have committed.
    async fn progress(&self) -> anyhow::Result<()> {
        let goal = self.clients.committed() + COMMITS_BETWEEN;
        until("transfers commit again", READY_LIMIT, async || {
            let committed = self.clients.committed();
            ensure!(committed >= goal, "{committed} of {goal}");
            Ok(())
        })
        .await
    }
}
