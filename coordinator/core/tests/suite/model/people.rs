//! The world outside the coordinator: clients, participants with fences, operators, the network, time.

use std::collections::BTreeSet;
use std::time::Duration;

use unanimity_core::{Answer, Command, Event, Refusal, ResultOutcome, Timer};
use unanimity_types::{BranchId, BranchKey, Decision, Operation, ResolveAs};

use super::coordinator::{Reply, operation_of};
use super::rng::Rng;
use super::{Flight, Hit, PARTICIPANTS, World};
use crate::fixture;

/// Who asked, and so what an answer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client, or a timer, an operator, the network: an outcome told counts for I4.
    Client,
    /// The participant of this number registers.
    Registrar(u32),
    /// The participant of this number asks about a branch in doubt.
    InDoubt(u32),
}

/// A participant's fence row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    Absent,
    Tried,
    Confirmed,
    Cancelled,
    /// Cancelled before its try.
    Tombstone,
}

pub(super) struct Participant {
    pub(super) n: u32,
    pub(super) row: Row,
    /// It was told that it is registered.
    pub(super) registered: bool,
    /// The client has its vote.
    pub(super) voted: bool,
    /// Its try was called and did not come back yet.
    pub(super) tries: u32,
    pub(super) confirms: u32,
    pub(super) cancels: u32,
}

impl Participant {
    pub(super) fn new(n: u32) -> Self {
        Self { n, row: Row::Absent, registered: false, voted: false, tries: 0, confirms: 0, cancels: 0 }
    }

    /// The effect of a try, at most once and never after a cancel (K3, I6).
    fn try_it(&mut self) -> bool {
        match self.row {
            Row::Absent => {
                self.row = Row::Tried;
                self.tries += 1;
                true
            }
            Row::Tried | Row::Confirmed => true,
            Row::Cancelled | Row::Tombstone => false,
        }
    }
}

/// The transaction manager.
pub(super) struct Client {
    /// It keeps to the rules of 1.3: it names the votes that it has, and no call is open when it commits.
    honest: bool,
    /// Participants try while their registration is still on its way; only honest clients allow it.
    early_tries: bool,
    /// How many participants an honest client calls.
    calls: u32,
    committed: bool,
    pub(super) lost_decision: bool,
}

impl Client {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let honest = rng.chance(60);
        let calls = if honest { *rng.pick(&[1, 2, 2, 3, 4]) } else { PARTICIPANTS };
        Self { honest, early_tries: honest && rng.chance(50), calls, committed: false, lost_decision: false }
    }
}

impl World {
    /// Sends a client's message: at once, later, or twice.
    fn send(&mut self, command: Command, asker: Asker) {
        if self.rng.chance(15) {
            self.mail.push((command.clone(), asker));
            if self.rng.chance(60) {
                return;
            }
        }
        self.command(command, asker);
    }

    pub(super) fn mail_step(&mut self) {
        if self.mail.is_empty() {
            return;
        }
        self.hit(Hit::DelayedMessage);
        let place = self.rng.index(self.mail.len());
        let (command, asker) =
            if self.rng.chance(80) { self.mail.swap_remove(place) } else { self.mail[place].clone() };
        self.command(command, asker);
    }

    pub(super) fn clients_step(&mut self) {
        let fresh = self.state.is_none();
        match self.rng.below(if fresh { 60 } else { 30 }) {
            0 | 20..=59 if fresh => self.send(fixture::begin(), Asker::Client),
            2..=14 if fresh => {}
            0 => {
                let body = if self.rng.chance(50) { 1 } else { 2 };
                self.send(fixture::begin_as(body), Asker::Client);
            }
            1..=14 => {
                let n = 1 + u32::try_from(self.rng.below(u64::from(self.client.calls))).expect("small");
                let body = if self.rng.chance(4) { 2 } else { 1 };
                self.send(fixture::register_as(n, body), Asker::Registrar(n));
            }
            15 if self.rng.chance(35) => self.send(fixture::ABORT, Asker::Client),
            16..=17 => self.send(Command::Inquire, Asker::Client),
            _ => self.commit(),
        }
    }

    fn commit(&mut self) {
        if !self.client.honest {
            let votes = match self.rng.below(4) {
                0 => None,
                1 => Some(self.registered()),
                2 => Some(self.votes()),
                _ => Some((1..=PARTICIPANTS).filter(|_| self.rng.chance(50)).map(Self::key).collect()),
            };
            self.client.committed = true;
            self.send(Command::Commit { votes }, Asker::Client);
            return;
        }
        // Calls that carried the context and are open, or ended without a vote: must abort (1.3).
        let open =
            self.participants.iter().any(|participant| participant.row == Row::Tried && !participant.voted);
        if open && !self.client.committed {
            return;
        }
        let votes = self.votes();
        if votes.len() < self.client.calls as usize && self.rng.chance(95) {
            return;
        }
        let votes = (self.client.early_tries || self.rng.chance(70)).then_some(votes);
        if votes.is_none() && self.votes() != self.registered() {
            return; // The client's word would be a lie.
        }
        self.client.committed = true;
        self.send(Command::Commit { votes }, Asker::Client);
    }

    fn votes(&self) -> BTreeSet<BranchKey> {
        let voted = self.participants.iter().filter(|participant| participant.voted);
        voted.map(|participant| Self::key(participant.n)).collect()
    }

    pub(super) fn participants_step(&mut self) {
        let place = self.rng.index(self.client.calls as usize);
        let early = self.client.early_tries && !self.client.committed;
        let participant = &mut self.participants[place];
        match self.rng.below(8) {
            0..=4 if participant.registered || early => {
                if self.rng.chance(10) {
                    return; // Rolled back (K7): no row, no vote.
                }
                let n = participant.n;
                let refused = !participant.try_it();
                if refused {
                    self.hit(Hit::LateTryRefused);
                } else if !self.client.committed && (early || self.rng.chance(85)) {
                    self.participants[place].voted = true;
                }
                self.note(&format!("try of {n}: {}", if refused { "refused" } else { "done" }));
            }
            5 if self.rng.chance(40) => {
                let n = participant.n;
                self.hit(Hit::ParticipantAsks);
                self.send(Command::Inquire, Asker::InDoubt(n));
            }
            _ => {}
        }
    }

    /// An answer reaches whoever asked.
    pub(super) fn answered(&mut self, reply: Reply) {
        let Reply { asker, answer, decision } = reply;
        if self.verbose {
            self.note(&format!("answered {asker:?}: {answer:?} {decision:?}"));
        }
        if let Some(decision) = decision {
            self.tell(decision);
        }
        if let Err(refusal) = &answer {
            match refusal {
                Refusal::CommitInProgress => self.hit(Hit::CommitInProgress),
                Refusal::BranchKeyReused => self.hit(Hit::BranchKeyReused),
                Refusal::XidReused => self.hit(Hit::XidReused),
                _ => {}
            }
        }
        match (asker, answer) {
            (Asker::Registrar(n), Ok(Answer::Registered(id))) => {
                let key = Self::key(n);
                for (known, same) in &self.promised {
                    assert!(*known != key || *same == id, "a key is one branch for ever (H8)");
                }
                let at = usize::try_from(n).expect("small") - 1;
                self.participants[at].registered = true;
                self.promised.push((key, id));
            }
            (Asker::Registrar(n) | Asker::InDoubt(n), _) => self.settles_itself(n, decision),
            (Asker::Client, _) => {}
        }
    }

    /// A participant that learns the outcome brings its own branch to it, if it has a row.
    fn settles_itself(&mut self, n: u32, decision: Option<Decision>) {
        let registered = self.registered().contains(&Self::key(n));
        let participant = &mut self.participants[usize::try_from(n).expect("small") - 1];
        match (participant.row, decision) {
            (Row::Tried, Some(Decision::Commit)) => {
                assert!(registered, "committed without a branch that has tried: a part is missing (I1, 1.3)");
                participant.row = Row::Confirmed;
                participant.confirms += 1;
            }
            (Row::Tried, Some(Decision::Abort)) => {
                participant.row = Row::Cancelled;
                participant.cancels += 1;
            }
            _ => return,
        }
        self.hit(Hit::ParticipantSettlesItself);
    }

    /// At the end every participant with an open row asks.
    pub(super) fn participants_ask(&mut self) {
        for n in 1..=PARTICIPANTS {
            if self.participants[usize::try_from(n).expect("small") - 1].row == Row::Tried {
                self.command(Command::Inquire, Asker::InDoubt(n));
            }
        }
    }

    /// An operation reaches its participant, now or at any later time.
    pub(super) fn execute(&mut self, flight: &Flight) -> ResultOutcome {
        let decision = self.durable_decision.expect("an operation behind a decision");
        assert_eq!(flight.operation, operation_of(decision), "what runs is what was decided (I1, I2)");
        let n = self.number_of(flight.branch_id);
        let participant = &mut self.participants[usize::try_from(n).expect("small") - 1];
        let (row, hit) = match (flight.operation, participant.row) {
            // K8: not an error, no tombstone.
            (Operation::Confirm, Row::Absent) => {
                self.hit(Hit::ConfirmBeforeTry);
                return fixture::not_yet();
            }
            (Operation::Confirm, Row::Tried) => {
                participant.confirms += 1;
                (Row::Confirmed, None)
            }
            (Operation::Confirm, Row::Confirmed) => (Row::Confirmed, Some(Hit::OperationRepeated)),
            (Operation::Cancel, Row::Absent) => (Row::Tombstone, Some(Hit::CancelBeforeTry)),
            (Operation::Cancel, Row::Tried) => {
                participant.cancels += 1;
                (Row::Cancelled, None)
            }
            (Operation::Cancel, row @ (Row::Cancelled | Row::Tombstone)) => {
                (row, Some(Hit::OperationRepeated))
            }
            (operation, row) => panic!("{operation} meets a row that is {row:?} (I6)"),
        };
        participant.row = row;
        if let Some(hit) = hit {
            self.hit(hit);
        }
        ResultOutcome::Done
    }

    /// The participant behind a branch number: what the log says, which is what the coordinator knows.
    fn number_of(&self, id: BranchId) -> u32 {
        let branch = self.state.as_ref().and_then(|transaction| transaction.branch(id)).expect("durable");
        branch.key.as_str()[1..].parse().expect("a number")
    }

    /// A try that is still running when its confirm comes ends at last.
    pub(super) fn late_try(&mut self, id: BranchId) {
        let n = self.number_of(id);
        if self.durable_decision == Some(Decision::Commit) {
            self.participants[usize::try_from(n).expect("small") - 1].try_it();
        }
    }

    /// An operation arrives and its answer comes back.
    pub(super) fn deliver(&mut self, flight: &Flight) {
        let outcome = self.execute(flight);
        self.result(flight, outcome);
    }

    fn result(&mut self, flight: &Flight, outcome: ResultOutcome) {
        let Flight { branch_id, operation, attempt } = flight.clone();
        self.command(Command::Result { branch_id, operation, attempt, outcome }, Asker::Client);
    }

    fn error(&mut self) -> Box<str> {
        self.errors += 1;
        format!("e{}", self.errors).into()
    }

    /// An answer that nobody asked for: another operation's, another branch's, or before the decision.
    fn stray_result(&mut self) {
        let branch_id = BranchId(u32::try_from(self.rng.below(u64::from(PARTICIPANTS) + 2)).expect("small"));
        let operation = *self.rng.pick(&[Operation::Try, Operation::Confirm, Operation::Cancel]);
        let decision = self.state.as_ref().and_then(|transaction| transaction.status().decision());
        if decision.map(operation_of) == Some(operation) {
            return; // The network invents no answer to what was asked.
        }
        self.hit(Hit::StrayResult);
        let outcome = if self.rng.chance(60) {
            ResultOutcome::Done
        } else {
            ResultOutcome::Refused { error: self.error() }
        };
        self.result(&Flight { branch_id, operation, attempt: 1 }, outcome);
    }

    pub(super) fn network_step(&mut self) {
        if self.rng.chance(6) {
            self.stray_result();
            return;
        }
        if !self.ghosts.is_empty() && (self.flights.is_empty() || self.rng.chance(20)) {
            self.ghost_step();
            return;
        }
        if self.flights.is_empty() {
            return;
        }
        let place = self.rng.index(self.flights.len());
        let flight = self.flights.swap_remove(place);
        let error = self.error();
        let retry_after = self.rng.chance(20).then_some(Duration::from_secs(40));
        let lost = ResultOutcome::Unknown { error: error.clone(), retry_after };
        match self.rng.below(12) {
            0..=3 => self.deliver(&flight),
            4 => {
                // Done, and the answer lost (K4).
                self.execute(&flight);
                self.result(&flight, lost);
            }
            5..=8 => {
                // Given up; the request is still somewhere.
                self.ghosts.push(flight.clone());
                self.result(&flight, lost);
            }
            9 => self
                .result(&flight, ResultOutcome::NotSent { error, retry_after: Duration::from_millis(700) }),
            10 => self.result(&flight, ResultOutcome::Unusable { error }),
            _ => self.result(&flight, ResultOutcome::Refused { error }),
        }
    }

    /// A request arrives that its sender gave up, before a crash perhaps; so may its answer.
    fn ghost_step(&mut self) {
        let place = self.rng.index(self.ghosts.len());
        let ghost = self.ghosts[place].clone();
        if self.rng.chance(70) {
            self.ghosts.swap_remove(place);
        }
        let outcome = if self.rng.chance(80) {
            self.execute(&ghost)
        } else {
            ResultOutcome::Unknown { error: self.error(), retry_after: None }
        };
        if self.rng.chance(60) {
            let owed = self.owed_now(ghost.branch_id).is_some();
            if owed && outcome == ResultOutcome::Done {
                self.hit(Hit::OldAttemptSettles);
            }
            self.result(&ghost, outcome);
        }
    }

    pub(super) fn time_step(&mut self) {
        let wait = *self.rng.pick(&[0, 1, 1, 20, 50, 200, 200, 600, 1_000, 1_000, 5_000, 20_000]);
        self.now = self.now.after(Duration::from_millis(wait));
        if self.rng.chance(2) {
            // A long pause of the process: the clients may be faster than its timers.
            self.now = self.now.after(Duration::from_secs(61));
            return;
        }
        if self.timers.is_empty() {
            return;
        }
        // Any timer: due or not, for what still waits or for what is long over.
        let place = self.rng.index(self.timers.len());
        let (at, timer) = self.timers[place];
        if at <= self.now {
            // The driver does not lose timers; it may fire one twice.
            if self.rng.chance(90) {
                self.timers.swap_remove(place);
            }
        } else if self.rng.chance(70) {
            return;
        }
        self.fire(timer);
    }

    fn fire(&mut self, timer: Timer) {
        self.note(&format!("timer {timer:?}"));
        self.command(Command::Timer(timer), Asker::Client);
    }

    /// Goes on to the next timer that is set.
    pub(super) fn next_timer(&mut self) {
        let next = (0..self.timers.len()).min_by_key(|place| self.timers[*place].0);
        let (at, timer) =
            self.timers.swap_remove(next.expect("nothing on its way and no timer: stuck for ever (I5)"));
        self.now = self.now.max(at);
        self.fire(timer);
    }

    pub(super) fn operators_step(&mut self) {
        let id = BranchId(1 + u32::try_from(self.rng.below(u64::from(PARTICIPANTS))).expect("small"));
        match self.rng.below(10) {
            0..=2 => self.command(Command::Retry { by: fixture::by() }, Asker::Client),
            3..=6 => {
                let at = self.now.after(Duration::from_millis(self.rng.below(500)));
                let before = self.queue.len();
                self.command(Command::Wake { branch_id: id, at }, Asker::Client);
                if self.queue.len() >= before && self.timers.last().is_some_and(|(set, _)| *set == at) {
                    self.hit(Hit::Wake);
                }
            }
            7 => {
                let reason = unanimity_types::AbortReason::Operator;
                self.command(Command::Abort { reason, by: Some(fixture::by()) }, Asker::Client);
            }
            _ => {
                let resolve_as = *self.rng.pick(ResolveAs::ALL);
                self.command(
                    Command::Resolve { branch_id: id, resolve_as, by: fixture::by() },
                    Asker::Client,
                );
                let ended = self.queue.last().is_some_and(|held| {
                    held.events.iter().any(|(_, event)| matches!(event, Event::BranchResolved { .. }))
                        && held.events.iter().any(|(_, event)| *event == Event::Finished)
                });
                if ended {
                    self.hit(Hit::FinishedByHand);
                }
            }
        }
    }
}
