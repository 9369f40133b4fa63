//! The work on one shard: claims rows, has them handed over, asks what became of them, writes it.
//!
//! What is in memory is only what the rows say: who takes the shard over reads it from them. The
//! database's statements are awaited here and nowhere else dropped half-way; the calls to the
//! coordinator run beside, bounded in number and time, and may be forgotten at any point, because a
//! repeated hand-over is the same one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use unanimity_types::Xid;

use super::super::OutboxError;
use super::super::handover::{HandoverError, MessageStatus, STATUS_IDS_MAX};
use super::super::row::{Change, DeathCause, Header, RowState};
use super::super::statements::OutboxDatabase;
use super::Shared;
use super::calls::{self, Reply};
use crate::backoff::Backoff;
use crate::failpoint;

/// Rows that are claimed in one transaction.
const CLAIM_MAX: usize = 64;
/// Messages of a shard whose hand-over has not been answered yet. While the coordinator is away no
/// more than these are taken from those that wait.
const UNANSWERED_MAX: usize = 256;
/// Calls of one shard that are started and not answered; each waits for a permit of the relay.
const CALLS_MAX: usize = 64;
/// Keys that one statement looks at.
const KEYS_PAGE: usize = 256;
/// Pages of keys in one turn, so that answers are not kept waiting.
const PAGES_PER_TURN: usize = 4;
/// Rows that are changed, or deleted, in one transaction: SQLite has one writer at a time.
const WRITE_MAX: usize = 250;
/// How soon after a hand-over somebody asks whether the message is delivered.
const FIRST_CHECK: Duration = Duration::from_millis(20);
/// How often old rows are deleted.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Why the work on a shard ended before it was told to.
enum End {
    /// The lease is another's.
    Lost,
    /// A statement failed: what was written is not known, and is read again.
    Failed(OutboxError),
}

impl From<OutboxError> for End {
    fn from(error: OutboxError) -> Self {
        Self::Failed(error)
    }
}

impl From<sqlx::Error> for End {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A row that the coordinator may have.
struct Open {
    id: Xid,
    key: String,
    since: Instant,
    /// A call about it is under way.
    calling: bool,
    /// The coordinator answered that it has it.
    answered: bool,
    /// A call may have arrived whose answer did not: then a refusal says nothing about it.
    maybe: bool,
    /// The coordinator refused it although it may have it: asked which is true.
    refused: Option<String>,
    /// When to call again.
    next: Instant,
    pauses: Backoff,
}

enum Outcome {
    Delivered,
    Dead(DeathCause, String),
}

struct Work<DB: OutboxDatabase> {
    shared: Arc<Shared<DB>>,
    shard: i16,
    epoch: i64,
    lease: watch::Receiver<Instant>,
    stop: CancellationToken,
    open: BTreeMap<i64, Open>,
    /// Outcomes that are not written yet.
    finished: Vec<(i64, Outcome)>,
    /// Keys of rows that are open or finished and not written: nothing else of them goes.
    busy: HashMap<String, u32>,
    /// Keys that became free: their next rows are looked for first.
    freed: Vec<String>,
    calls: JoinSet<Reply>,
    asking: bool,
    look_keyless: bool,
    /// How far the look over all keys has come; `None`: nothing to look for.
    sweep: Option<String>,
    sweep_again: bool,
    poll_at: Instant,
    reload_at: Instant,
    /// There are more rows that the coordinator may have than were read: until they are, nothing else
    /// goes, since it may be of one of their keys.
    more_handed: bool,
    forget_at: Instant,
}

/// Works on a shard until told to stop, or until the lease is another's.
pub(super) async fn run<DB: OutboxDatabase>(
    shared: Arc<Shared<DB>>,
    shard: i16,
    epoch: i64,
    lease: watch::Receiver<Instant>,
    stop: CancellationToken,
) {
    let mut pauses = Backoff::new(Duration::from_millis(50), shared.settings.retry_cap);
    while !stop.is_cancelled() {
        let mut work = Work::new(Arc::clone(&shared), shard, epoch, lease.clone(), stop.clone());
        let lived = Instant::now();
        let end = work.live().await;
        work.calls.detach_all();
        match end {
            Ok(()) => return,
            Err(End::Lost) => {
                tracing::info!(shard, epoch, "another relay took over this shard of the outbox");
                return;
            }
            Err(End::Failed(error)) => {
                tracing::warn!(shard, %error, "the outbox's relay begins again with this shard");
                if lived.elapsed() > Duration::from_secs(60) {
                    pauses.reset();
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(pauses.next()) => {}
                }
            }
        }
    }
}

impl<DB: OutboxDatabase> Work<DB> {
    fn new(
        shared: Arc<Shared<DB>>,
        shard: i16,
        epoch: i64,
        lease: watch::Receiver<Instant>,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let mut work = Self {
            shared,
            shard,
            epoch,
            lease,
            stop,
            open: BTreeMap::new(),
            finished: Vec::new(),
            busy: HashMap::new(),
            freed: Vec::new(),
            calls: JoinSet::new(),
            asking: false,
            look_keyless: true,
            sweep: Some(String::new()),
            sweep_again: false,
            poll_at: now,
            reload_at: now,
            more_handed: false,
            forget_at: now,
        };
        // Not all shards at once.
        work.forget_at = now + work.forget_every().mul_f64(fastrand::f64());
        work
    }

    async fn live(&mut self) -> Result<(), End> {
        while !self.stop.is_cancelled() {
            self.write_finished().await?;
            self.reload().await?;
            self.claim().await?;
            self.start_calls();
            self.forget().await?;
            self.wait().await;
        }
        // What is known is written; who comes next would have to ask for it.
        self.write_finished().await
    }

    /// Reads which rows the coordinator may have: all of them at the beginning, later those that
    /// somebody replayed.
    async fn reload(&mut self) -> Result<(), End> {
        let most = self.shared.settings.open_max * 2;
        let is_due = Instant::now() >= self.reload_at || (self.more_handed && self.open.len() <= most / 2);
        if !is_due {
            return Ok(());
        }
        let mut connection = self.shared.outbox.pool().acquire().await?;
        let rows = DB::handed(&mut connection, self.shard, i64::try_from(most).unwrap_or(i64::MAX)).await?;
        self.more_handed = rows.len() == most;
        for row in rows {
            if !self.open.contains_key(&row.n) {
                self.add(row, true);
            }
        }
        self.reload_at = Instant::now() + self.shared.settings.poll * 5;
        Ok(())
    }

    fn add(&mut self, row: Header, maybe: bool) {
        if !row.key.is_empty() {
            *self.busy.entry(row.key.clone()).or_default() += 1;
        }
        let now = Instant::now();
        let open = Open {
            id: row.id,
            key: row.key,
            since: now,
            calling: false,
            answered: false,
            maybe,
            refused: None,
            next: now,
            pauses: Backoff::new(Duration::from_millis(50), self.shared.settings.retry_cap),
        };
        self.open.insert(row.n, open);
    }

    /// Whether the lease holds for sure.
    fn holds(&self) -> bool {
        Instant::now() < *self.lease.borrow()
    }

    /// How many more rows may be claimed now.
    fn room(&self) -> usize {
        if self.more_handed {
            return 0;
        }
        let unanswered = self.open.values().filter(|open| !open.answered).count();
        (self.shared.settings.open_max.saturating_sub(self.open.len()))
            .min(UNANSWERED_MAX.saturating_sub(unanswered))
            .min(CLAIM_MAX)
    }

    /// Makes pending rows ours: written before anybody is called.
    async fn claim(&mut self) -> Result<(), End> {
        let room = self.room();
        if room == 0 || !self.holds() || !self.has_to_look() {
            return Ok(());
        }
        let rows = self.candidates(room).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let numbers: Vec<_> = rows.iter().map(|row| row.n).collect();
        let mut tx = self.fenced().await?;
        let change = Change { from: RowState::Pending, to: RowState::Handed, epoch: self.epoch, death: None };
        let changed = DB::change(&mut tx, &numbers, change).await?;
        if changed != u64::try_from(numbers.len()).unwrap_or(u64::MAX) {
            return Err(OutboxError::Unreadable("rows were changed by somebody else".into()).into());
        }
        tx.commit().await?;
        for row in rows {
            self.add(row, false);
        }
        Ok(())
    }

    fn has_to_look(&self) -> bool {
        self.look_keyless || self.sweep.is_some() || !self.freed.is_empty()
    }

    /// Rows that may go now: the first pending of keys that nothing is under way of, and rows without
    /// a key.
    async fn candidates(&mut self, room: usize) -> Result<Vec<Header>, End> {
        let mut connection = self.shared.outbox.pool().acquire().await?;
        let mut rows: Vec<Header> = Vec::new();
        let freed: Vec<_> = self.freed.drain(..room.min(self.freed.len())).collect();
        for row in DB::heads_of(&mut connection, self.shard, &freed).await? {
            let taken = rows.iter().any(|known| known.n == row.n);
            if !taken && !self.busy.contains_key(&row.key) {
                rows.push(row);
            }
        }
        if self.look_keyless {
            // Half of what is left, so that neither kind keeps the other waiting.
            let limit = (room - rows.len()).div_ceil(2);
            let found =
                DB::keyless(&mut connection, self.shard, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
            self.look_keyless = found.len() == limit;
            rows.extend(found);
        }
        for _ in 0..PAGES_PER_TURN {
            let Some(after) = self.sweep.clone() else { break };
            let page = DB::heads(&mut connection, self.shard, &after, KEYS_PAGE as i64).await?;
            let last_page = page.len() < KEYS_PAGE;
            for row in page {
                if rows.len() >= room {
                    return Ok(rows);
                }
                self.sweep = Some(row.key.clone());
                let taken = rows.iter().any(|known| known.n == row.n);
                if !taken && !self.busy.contains_key(&row.key) {
                    rows.push(row);
                }
            }
            if last_page {
                self.sweep = std::mem::take(&mut self.sweep_again).then(String::new);
                break;
            }
        }
        Ok(rows)
    }

    /// A transaction that holds the shard's lease row, if it is still ours.
    async fn fenced(&self) -> Result<sqlx::Transaction<'static, DB>, End> {
        let mut tx = DB::begin(self.shared.outbox.pool()).await?;
        if DB::lock_shard(&mut tx, self.shard).await? != self.epoch {
            return Err(End::Lost);
        }
        Ok(tx)
    }

    async fn write_finished(&mut self) -> Result<(), End> {
        while !self.finished.is_empty() {
            let batch: Vec<_> = self.finished.drain(..WRITE_MAX.min(self.finished.len())).collect();
            let is_delivered =
                |(n, outcome): &(i64, Outcome)| matches!(outcome, Outcome::Delivered).then_some(*n);
            let delivered: Vec<_> = batch.iter().filter_map(is_delivered).collect();
            let change = |to, death| Change { from: RowState::Handed, to, epoch: self.epoch, death };
            let mut tx = self.fenced().await?;
            let mut changed = DB::change(&mut tx, &delivered, change(RowState::Delivered, None)).await?;
            for (n, outcome) in &batch {
                if let Outcome::Dead(cause, reason) = outcome {
                    let death = Some((*cause, reason.as_str()));
                    changed += DB::change(&mut tx, &[*n], change(RowState::Dead, death)).await?;
                }
            }
            failpoint::reach("relay.before_mark");
            tx.commit().await?;
            failpoint::reach("relay.after_mark");
            if changed != u64::try_from(batch.len()).unwrap_or(u64::MAX) {
                tracing::warn!(shard = self.shard, "rows of the outbox were changed by somebody else");
            }
            for (n, _) in batch {
                self.let_go(n);
            }
        }
        Ok(())
    }

    /// Forgets a row whose outcome is written.
    fn let_go(&mut self, n: i64) {
        let Some(open) = self.open.remove(&n) else { return };
        if let Some(count) = self.busy.get_mut(&open.key) {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&open.key);
                self.freed.push(open.key);
            }
        }
    }

    /// Starts the calls that are due.
    fn start_calls(&mut self) {
        if !self.holds() {
            return;
        }
        let now = Instant::now();
        let mut ask = Vec::new();
        for (n, open) in &mut self.open {
            if open.calling || open.next > now {
                continue;
            }
            if open.answered {
                if !self.asking && ask.len() < STATUS_IDS_MAX {
                    open.calling = true;
                    ask.push((*n, open.id));
                }
            } else if self.calls.len() < CALLS_MAX {
                open.calling = true;
                let row = Header { n: *n, id: open.id, key: open.key.clone() };
                self.calls.spawn(calls::hand_over(Arc::clone(&self.shared), row, self.lease.clone()));
            }
        }
        if !ask.is_empty() {
            self.asking = true;
            self.calls.spawn(calls::ask(Arc::clone(&self.shared), ask));
        }
    }

    /// Deletes rows that were delivered long ago.
    async fn forget(&mut self) -> Result<(), End> {
        if Instant::now() < self.forget_at {
            return Ok(());
        }
        let age = i64::try_from(self.shared.settings.retention.as_millis()).unwrap_or(i64::MAX);
        let mut tx = DB::begin(self.shared.outbox.pool()).await?;
        let gone = DB::forget(&mut tx, self.shard, age, WRITE_MAX as i64).await?;
        tx.commit().await?;
        let more = gone == WRITE_MAX as u64;
        self.forget_at = Instant::now() + if more { self.shared.settings.poll } else { self.forget_every() };
        Ok(())
    }

    fn forget_every(&self) -> Duration {
        FORGET_EVERY.min(self.shared.settings.retention).max(self.shared.settings.poll)
    }

    /// Waits until there is something to do, and takes in what was answered.
    async fn wait(&mut self) {
        let goes_on = self.has_to_look() && self.room() > 0 && self.holds();
        if goes_on || !self.finished.is_empty() {
            tokio::task::yield_now().await;
        } else {
            let timer = self.next_timer();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(reply) = self.calls.join_next() => self.take_in(reply),
                () = self.shared.outbox.bell.heard(self.shard) => self.look(),
                () = tokio::time::sleep_until(timer) => {}
            }
        }
        while let Some(reply) = self.calls.try_join_next() {
            self.take_in(reply);
        }
        if Instant::now() >= self.poll_at {
            self.poll_at = Instant::now() + self.shared.settings.poll.mul_f64(0.75 + 0.5 * fastrand::f64());
            self.look();
        }
    }

    fn look(&mut self) {
        self.look_keyless = true;
        match &self.sweep {
            None => self.sweep = Some(String::new()),
            Some(_) => self.sweep_again = true,
        }
    }

    fn next_timer(&self) -> Instant {
        // What cannot be called now waits for the end of another call, or for the lease.
        let (holds, more) = (self.holds(), self.calls.len() < CALLS_MAX);
        let callable =
            |open: &&Open| holds && !open.calling && if open.answered { !self.asking } else { more };
        let calls = self.open.values().filter(callable).map(|open| open.next);
        let forget = holds.then_some(self.forget_at);
        calls.chain(forget).fold(self.poll_at, Instant::min)
    }

    fn take_in(&mut self, reply: Result<Reply, tokio::task::JoinError>) {
        match reply {
            Ok(Reply::Handed(n, Ok(handed))) => {
                if let Some(open) = self.open.get_mut(&n) {
                    open.answered = true;
                    open.pauses.reset();
                }
                self.settle(n, handed.status);
            }
            Ok(Reply::Handed(n, Err(error))) => self.not_handed(n, &error),
            Ok(Reply::NotSent(n)) => self.again(n),
            Ok(Reply::Gone(n)) => {
                tracing::warn!(shard = self.shard, n, "a row of the outbox was changed by somebody else");
                self.let_go(n);
            }
            Ok(Reply::Unreadable(n)) => {
                let reason = "this version of the relay cannot read the message's plan".to_owned();
                self.finish(n, Outcome::Dead(DeathCause::Refused, reason));
            }
            Ok(Reply::Asked(asked, Ok(answers))) => {
                self.asking = false;
                for (place, (n, _)) in asked.iter().enumerate() {
                    match answers.get(place) {
                        Some(status) => self.settle(*n, *status),
                        None => self.again(*n),
                    }
                }
            }
            Ok(Reply::Asked(asked, Err(error))) => {
                tracing::debug!(shard = self.shard, %error, "messages could not be asked about");
                self.asking = false;
                for (n, _) in asked {
                    self.again(n);
                }
            }
            Err(error) => {
                // Which row it was is not known: all are called again, which is the same for them.
                tracing::error!(shard = self.shard, %error, "a hand-over ended badly");
                self.calls.detach_all();
                self.asking = false;
                let rows: Vec<_> = self.open.keys().copied().collect();
                for n in rows {
                    self.again(n);
                }
            }
        }
    }

    /// Calls again after a pause.
    fn again(&mut self, n: i64) {
        if let Some(open) = self.open.get_mut(&n) {
            open.calling = false;
            open.next = Instant::now() + open.pauses.next();
        }
    }

    fn not_handed(&mut self, n: i64, error: &HandoverError) {
        let Some(open) = self.open.get_mut(&n) else { return };
        tracing::debug!(id = %open.id, %error, "a message could not be handed over");
        if error.retryable {
            open.maybe = true;
            self.again(n);
            if let (Some(open), Some(after)) = (self.open.get_mut(&n), error.retry_after) {
                open.next = open.next.max(Instant::now() + after);
            }
        } else if open.maybe {
            // An earlier call may have arrived. Asking settles it: a message that is not there
            // cannot come any more.
            open.calling = false;
            open.answered = true;
            open.refused = Some(error.to_string());
            open.next = Instant::now();
        } else {
            self.finish(n, Outcome::Dead(DeathCause::Refused, error.to_string()));
        }
    }

    fn settle(&mut self, n: i64, status: MessageStatus) {
        let Some(open) = self.open.get_mut(&n) else { return };
        open.calling = false;
        match status {
            MessageStatus::Open => {
                // Half of its age: often while it is young, seldom while a receiver is away.
                let pause = (open.since.elapsed() / 2).max(FIRST_CHECK);
                open.next = Instant::now() + pause.min(self.shared.settings.check_every_max);
            }
            MessageStatus::Delivered => self.finish(n, Outcome::Delivered),
            MessageStatus::Forgotten => {
                tracing::warn!(
                    id = %open.id,
                    "the coordinator does not remember this message any more: it is taken for delivered"
                );
                self.finish(n, Outcome::Delivered);
            }
            MessageStatus::Parked => {
                let reason = "a receiver refused it, or its attempts ran out".to_owned();
                self.finish(n, Outcome::Dead(DeathCause::Parked, reason));
            }
            MessageStatus::Aborted => {
                let reason = match open.refused.take() {
                    Some(refused) => format!("the coordinator refused it: {refused}"),
                    None => "its transaction was aborted".to_owned(),
                };
                self.finish(n, Outcome::Dead(DeathCause::Aborted, reason));
            }
        }
    }

    fn finish(&mut self, n: i64, outcome: Outcome) {
        if let Some(open) = self.open.get_mut(&n) {
            // Until it is written nothing is asked about it, and nothing else of its key goes.
            open.calling = true;
            if let Outcome::Dead(cause, reason) = &outcome {
                tracing::warn!(id = %open.id, cause = cause.as_str(), reason, "a message became a dead letter");
            }
            self.finished.push((n, outcome));
        }
    }
}
