//! Participants: what they applied, and what they answer.

use bytes::Bytes;
use unanimity_core::ResultOutcome;
use unanimity_types::{BranchKey, Limits, Operation, Vote};

use super::{Flight, Ghost, Rule, World};

/// A result over the limit.
static TOO_LARGE: [u8; Limits::RESULT_BYTES_MAX + 1] = [b'x'; Limits::RESULT_BYTES_MAX + 1];

/// One participant's part.
#[derive(Debug, Clone)]
pub(super) enum Site {
    Step(StepSite),
    TwoPhase(Row),
    Tcc(Row),
    /// How often the message had its effect.
    Receiver(u32),
    Sender(Local),
}

/// A step's participant.
#[derive(Debug, Clone, Default)]
pub(super) struct StepSite {
    /// It remembers what it answered and what was undone. Without it there is a unique key on what is
    /// there, and no more.
    pub(super) fenced: bool,
    pub(super) effect: bool,
    pub(super) result: Option<Bytes>,
    pub(super) undone: bool,
    pub(super) ran: u32,
    pub(super) inputs: Option<Vec<(BranchKey, Bytes)>>,
}

/// A fence or ledger row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    Absent,
    /// Tried, or worked and not prepared.
    Working,
    Prepared,
    ReadOnly,
    /// Confirmed or committed.
    Committed,
    /// Cancelled or rolled back, or a tombstone.
    RolledBack,
}

/// The sender's local transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Local {
    NotBegun,
    Open,
    Committed,
    /// It cannot commit any more.
    Over,
}

fn refused(why: &str) -> ResultOutcome {
    ResultOutcome::Refused { error: why.into() }
}

impl World {
    /// An operation reaches its participant, now or at any later time.
    pub(super) fn execute(&mut self, flight: &Flight) -> ResultOutcome {
        if let Some(site) = self.late_work(flight) {
            self.sites.insert(flight.key.clone(), site);
            return ResultOutcome::NotYet { error: "it is still working".into() };
        }
        let mut site = self.sites.get(&flight.key).expect("every branch has one").clone();
        let outcome = match (&mut site, flight.operation) {
            (Site::Step(step), Operation::Action) => self.action(step, flight),
            (Site::Step(step), Operation::Compensate) => self.compensate(step, flight),
            (Site::TwoPhase(row), operation) => self.two_phase(row, operation),
            (Site::Tcc(row), Operation::Confirm) => match row {
                Row::Working | Row::Committed => {
                    *row = Row::Committed;
                    ResultOutcome::Done
                }
                row => panic!("confirm meets {row:?} (I2, I6)"),
            },
            (Site::Tcc(row), Operation::Cancel) => {
                assert!(*row != Row::Committed, "cancel meets what is confirmed (I6)");
                *row = Row::RolledBack;
                ResultOutcome::Done
            }
            (Site::Receiver(effects), Operation::Deliver) => {
                if *effects == 0 {
                    self.hit(Rule::DeliveredOnce);
                    *effects = 1;
                } else {
                    self.hit(Rule::DeliveryRepeated);
                }
                ResultOutcome::Done
            }
            (Site::Sender(local), Operation::CheckBack) => self.check_back(local),
            (site, operation) => panic!("{operation} reaches {site:?}"),
        };
        self.sites.insert(flight.key.clone(), site);
        outcome
    }

    fn action(&mut self, step: &mut StepSite, flight: &Flight) -> ResultOutcome {
        let inputs = step.inputs.get_or_insert_with(|| flight.inputs.clone());
        assert_eq!(*inputs, flight.inputs, "every attempt is given the same results (C6)");
        if !flight.inputs.is_empty() {
            self.hit(Rule::ResultsHandedOn);
        }
        if step.fenced && step.undone {
            self.hit(Rule::LateActionRefused);
            return refused("it was compensated");
        }
        if step.effect {
            self.hit(Rule::ActionRepeated);
            if !step.fenced {
                self.hit(Rule::ConflictAfterUnknown);
                return refused("409: there is one already");
            }
            return ResultOutcome::Result(step.result.clone().expect("kept with the effect"));
        }
        if !self.healing && self.rng.chance(9) {
            return refused("sold out");
        }
        self.check_nothing_before_is_undone(flight);
        step.effect = true;
        step.ran += 1;
        let result = if self.rng.chance(1) {
            Bytes::from_static(&TOO_LARGE)
        } else {
            Bytes::from(format!("{} {}", flight.key, step.ran))
        };
        step.result = Some(result.clone());
        if self.rng.chance(10) && result.len() < 1_000 {
            step.result = Some(Bytes::new());
            return ResultOutcome::Done;
        }
        ResultOutcome::Result(result)
    }

    /// No step begins to take effect when one that comes before it was undone (reverse order).
    fn check_nothing_before_is_undone(&self, flight: &Flight) {
        if self.durable.resolved.contains(&flight.branch_id) {
            return; // Somebody said that it did not.
        }
        for (key, site) in &self.sites {
            let Site::Step(before) = site else { continue };
            assert!(
                !before.undone || !self.after(key).contains(&flight.key),
                "{} takes effect after {key}, which comes before it, was undone (reverse order)",
                flight.key
            );
        }
    }

    fn compensate(&mut self, step: &mut StepSite, flight: &Flight) -> ResultOutcome {
        for later in self.after(&flight.key) {
            let Some(Site::Step(site)) = self.sites.get(&later) else { panic!("a saga has steps only") };
            assert!(
                !site.effect || !self.must_be_undone(&later),
                "{} is compensated while {later}, which comes after it, is in effect (reverse order)",
                flight.key
            );
        }
        if step.undone {
            self.hit(Rule::CompensationRepeated);
        } else if !step.effect {
            self.hit(Rule::NullCompensation);
        }
        step.effect = false;
        step.undone = true;
        ResultOutcome::Done
    }

    fn two_phase(&mut self, row: &mut Row, operation: Operation) -> ResultOutcome {
        match (operation, *row) {
            (Operation::Prepare, Row::Working) => match self.rng.below(if self.healing { 9 } else { 10 }) {
                0..=5 => *row = Row::Prepared,
                6..=8 => *row = Row::ReadOnly,
                _ => *row = Row::RolledBack,
            },
            (Operation::Prepare, Row::Absent) => *row = Row::RolledBack,
            (Operation::Prepare, _) => {}
            (Operation::Commit, Row::Prepared | Row::Committed) => *row = Row::Committed,
            (
                Operation::Rollback,
                Row::Absent | Row::Working | Row::Prepared | Row::RolledBack | Row::ReadOnly,
            ) => {
                *row = Row::RolledBack;
            }
            (Operation::CommitOnePhase, Row::Working | Row::Prepared) => {
                let refuses = !self.healing && self.rng.chance(20);
                *row = if refuses { Row::RolledBack } else { Row::Committed };
            }
            (Operation::CommitOnePhase, Row::Absent) => *row = Row::RolledBack,
            (Operation::CommitOnePhase, Row::Committed | Row::RolledBack) => {
                self.hit(Rule::DelegateAskedAgain);
            }
            (operation, row) => panic!("{operation} meets {row:?} (I1, I2)"),
        }
        match (operation, *row) {
            (Operation::Prepare, Row::Prepared | Row::Committed) if self.rng.chance(50) => {
                ResultOutcome::Done
            }
            (Operation::Prepare, Row::Prepared | Row::Committed) => ResultOutcome::Voted(Vote::Prepared),
            (Operation::Prepare, Row::ReadOnly) => ResultOutcome::Voted(Vote::ReadOnly),
            (Operation::Prepare, _) if self.rng.chance(50) => ResultOutcome::Voted(Vote::Refused),
            (Operation::Prepare, _) => refused("the work is gone"),
            (Operation::CommitOnePhase, Row::RolledBack) => {
                self.hit(Rule::DelegateRefuses);
                refused("a constraint fails")
            }
            _ => ResultOutcome::Done,
        }
    }

    /// The check-back inserts the row as refused: it meets what is there, or waits for what is open (O5).
    fn check_back(&mut self, local: &mut Local) -> ResultOutcome {
        match local {
            Local::Open => {
                self.hit(Rule::CheckBackDuringOpenTransaction);
                ResultOutcome::NotYet { error: "its transaction is open".into() }
            }
            Local::Committed => {
                self.hit(Rule::CheckBackSaysYes);
                ResultOutcome::Done
            }
            Local::NotBegun | Local::Over => {
                self.hit(Rule::CheckBackSaysNo);
                *local = Local::Over;
                refused("no row, and there will be none")
            }
        }
    }

    /// A request arrives that its sender gave up, or that a deposed owner sends. Its answer reaches
    /// nobody, unless it belongs to a decision.
    pub(super) fn ghost_step(&mut self) {
        let place = self.rng.index(self.ghosts.len());
        let Ghost { flight, until } = self.ghosts[place].clone();
        if self.healing || self.rng.chance(70) {
            self.ghosts.swap_remove(place);
        }
        if let Some(Site::Step(step)) = self.sites.get(&flight.key)
            && flight.operation == Operation::Action
        {
            // A fence that nobody tells of the turn keeps nothing away.
            let keeps_away = step.fenced && self.must_be_undone(&flight.key);
            if !keeps_away && self.now >= until {
                return; // Nothing but its deadline keeps it away, and that has passed (H3).
            }
            self.hit(Rule::LateActionArrives);
        }
        self.note(&format!("late {flight:?}"));
        let outcome = self.execute(&flight);
        if !flight.operation.is_forward() && self.rng.chance(50) {
            self.result(&flight, outcome);
        }
    }
}
