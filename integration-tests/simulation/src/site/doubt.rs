//! What a participant does by itself: it attaches and shows what it has seen, asks about branches that stay open,
//! and collects rows that are settled (protocol C2, H6, H9).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use unanimity_coordinator::engine::{Asked, Inquiry};
use unanimity_types::{BranchKey, BranchKind, InquiryAnswer, Operation, Xid, partition_of};

use super::{Site, State};
use crate::checks::Did;
use crate::hits::Hit;
use crate::site::tries::name;
use crate::world::World;

/// Rows that are open for longer are asked about.
const DOUBT_AFTER: Duration = Duration::from_secs(4);
/// Settled rows that are older are asked about and let go.
const COLLECT_AFTER: Duration = Duration::from_secs(60);

type At = (Xid, BranchKey);

impl Site {
    /// Until it is killed.
    pub(super) async fn look_after(self: Arc<Self>, world: Arc<World>) {
        self.attach(&world).await;
        loop {
            tokio::time::sleep(Duration::from_secs(2) + world.up_to(Duration::from_secs(3))).await;
            self.show(&world).await;
            self.ask_about_open(&world).await;
            self.collect(&world).await;
        }
    }

    /// Nodes hear that it can be reached again.
    async fn attach(&self, world: &Arc<World>) {
        let participant = name(&format!("s{}", self.number));
        for node in 0..world.nodes.len() {
            let participant = participant.clone();
            // One that does not hear it tries again when its back-off ends.
            let _ = world
                .ask(self.host(), node, Duration::from_secs(1), move |coordinator| {
                    let participant = participant.clone();
                    async move {
                        coordinator.participant_available(&participant).await;
                        Ok(())
                    }
                })
                .await;
        }
    }

    async fn show(&self, world: &Arc<World>) {
        let seen = world.witness_of(self.host());
        if seen.is_empty() {
            return;
        }
        let node = world.dice(|dice| dice.usize(..world.nodes.len()));
        let shown = world
            .ask(self.host(), node, Duration::from_secs(2), move |coordinator| {
                let seen = seen.clone();
                async move { coordinator.witness(&seen).await }
            })
            .await;
        if let Ok(answer) = shown {
            world.hit(Hit::WitnessHeard);
            world.answered(&answer);
        }
    }

    /// What a host asks of the partitions of these xids.
    async fn inquire(&self, world: &Arc<World>, rows: &[(At, Instant)]) -> BTreeMap<Xid, Inquiry> {
        let mut by_partition: BTreeMap<u16, Vec<Asked>> = BTreeMap::new();
        for ((xid, _), made) in rows {
            let partition = partition_of(*xid, world.swarm.partitions).0;
            let age = Some(made.elapsed());
            by_partition.entry(partition).or_default().push(Asked { xid: *xid, age });
        }
        let log_id = world.log_id();
        let mut answers = BTreeMap::new();
        for asked in by_partition.into_values() {
            let Some(first) = asked.first().map(|asked| asked.xid) else { continue };
            let answered = world
                .command(self.host(), first, "inquire", 3, move |coordinator| {
                    let asked = asked.clone();
                    async move { coordinator.inquire(Some(log_id), asked).await }
                })
                .await;
            if let Ok(answered) = answered {
                answers.extend(answered.into_iter().map(|inquiry| (inquiry.xid, inquiry)));
            }
        }
        answers
    }

    async fn ask_about_open(&self, world: &Arc<World>) {
        let now = Instant::now();
        let old = |since: Instant| now - since > DOUBT_AFTER;
        let mut open: Vec<(At, Instant)> = {
            let database = self.database.get();
            let rows = database.rows.iter().filter(|(_, row)| {
                let open = match row.kind {
                    BranchKind::Tcc => row.state == State::Tried,
                    BranchKind::TwoPhase => row.state == State::Prepared,
                    _ => false,
                };
                open && old(row.changed)
            });
            rows.map(|(at, row)| (at.clone(), row.made)).collect()
        };
        {
            let memory = self.memory.get();
            let working = memory.working.iter().filter(|(_, (_, since))| old(*since));
            open.extend(working.map(|(at, (_, since))| (at.clone(), *since)));
        }
        if open.is_empty() {
            return;
        }
        let answers = self.inquire(world, &open).await;
        for ((xid, key), _) in open {
            match answers.get(&xid).map(|inquiry| inquiry.answer) {
                Some(InquiryAnswer::Committed) => self.finish(world, xid, &key, true).await,
                Some(InquiryAnswer::Aborted) => self.finish(world, xid, &key, false).await,
                Some(InquiryAnswer::NotMine | InquiryAnswer::Forgotten) => {
                    world.fail(Some(xid), "a participant in doubt is told not_mine or forgotten");
                }
                Some(InquiryAnswer::Active) | None => {}
            }
        }
    }

    /// It learned the decision by asking.
    async fn finish(&self, world: &Arc<World>, xid: Xid, key: &BranchKey, committed: bool) {
        let Some(_held) = self.hold(xid, key) else { return };
        self.works(world).await;
        let at = (xid, key.clone());
        let working = self.memory.get().working.get(&at).copied();
        if let Some((delta, _)) = working {
            // Its connection is closed: that is a rollback. A delegate's outcome is not the asker's to say.
            if !committed {
                world.hit(Hit::InDoubtCancelled);
                self.memory.get().working.remove(&at);
                let row = (BranchKind::TwoPhase, State::RolledBack, delta, Bytes::new());
                self.commit(world, (xid, key, Operation::Rollback), row, 0, Did::Undone);
            }
            return;
        }
        let Some(row) = self.row(xid, key) else { return };
        world.hit(if committed { Hit::InDoubtConfirmed } else { Hit::InDoubtCancelled });
        let delta = row.delta;
        let (operation, state, moves, did) = match (row.kind, row.state, committed) {
            (BranchKind::Tcc, State::Tried, true) => {
                (Operation::Confirm, State::Confirmed, delta.max(0), Did::Effect)
            }
            (BranchKind::Tcc, State::Tried, false) => {
                (Operation::Cancel, State::Cancelled, -delta.min(0), Did::Undone)
            }
            (BranchKind::TwoPhase, State::Prepared, true) => {
                (Operation::Commit, State::Committed, delta, Did::Effect)
            }
            (BranchKind::TwoPhase, State::Prepared, false) => {
                (Operation::Rollback, State::RolledBack, 0, Did::Undone)
            }
            _ => return,
        };
        self.commit(world, (xid, key, operation), (row.kind, state, delta, Bytes::new()), moves, did);
    }

    /// Rows that nothing can come for any more.
    async fn collect(&self, world: &Arc<World>) {
        let now = Instant::now();
        let over: Vec<(At, Instant)> = {
            let database = self.database.get();
            let rows = database.rows.iter().filter(|(_, row)| {
                let open = match row.kind {
                    BranchKind::Tcc => row.state == State::Tried,
                    BranchKind::TwoPhase => row.state == State::Prepared,
                    _ => false,
                };
                !open && now - row.changed > COLLECT_AFTER
            });
            rows.map(|(at, row)| (at.clone(), row.made)).take(20).collect()
        };
        if over.is_empty() || !world.percent(30) {
            return;
        }
        let answers = self.inquire(world, &over).await;
        for (at, _) in over {
            if answers.get(&at.0).is_some_and(|inquiry| inquiry.settled) {
                world.hit(Hit::RowCollected);
                self.database.get().rows.remove(&at);
            }
        }
    }

    /// What is still open here.
    pub(crate) fn open(&self) -> Vec<At> {
        let database = self.database.get();
        let rows = database.rows.iter().filter(|(_, row)| match row.kind {
            BranchKind::Tcc => row.state == State::Tried,
            BranchKind::TwoPhase => row.state == State::Prepared,
            _ => false,
        });
        let mut open: Vec<At> = rows.map(|(at, _)| at.clone()).collect();
        open.extend(self.memory.get().working.keys().cloned());
        open
    }
}
