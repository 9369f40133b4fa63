//! Branches that are begun, and then finished or undone: TCC, saga steps, two-phase.

use unanimity_types::Operation;

use super::Guarantee::{Compensates, Fenced, Idempotent};
use super::{Scenario, Step};

/// The names of a mode's operations.
#[derive(Debug)]
pub(super) struct Shape {
    /// The application's own call before `begin`.
    pub(super) work: Option<Operation>,
    /// try, action, prepare
    pub(super) begin: Operation,
    /// confirm, commit; an action is final by itself.
    pub(super) finish: Option<Operation>,
    /// cancel, compensate, rollback
    pub(super) undo: Operation,
    /// Work and commit in one, without `begin`.
    pub(super) one_phase: Option<Operation>,
}

pub(super) fn scenarios(shape: &Shape) -> Vec<Scenario> {
    let mut all = vec![Scenario::basic(shape.finished())];
    undone(shape, &mut all);
    repeated(shape, &mut all);
    identity(shape, &mut all);
    out_of_order(shape, &mut all);
    answers_dropped(shape, &mut all);
    at_once(shape, &mut all);
    if let Some(one_phase) = shape.one_phase {
        let mut steps = shape.worked();
        steps.extend([Step::Done(one_phase), Step::Again(one_phase)]);
        all.push(Scenario::new("commit_one_phase_twice", Idempotent, 1, steps));
    }
    all
}

impl Shape {
    fn worked(&self) -> Vec<Step> {
        self.work.map(Step::Done).into_iter().collect()
    }

    fn begun(&self) -> Vec<Step> {
        let mut steps = self.worked();
        steps.push(Step::Done(self.begin));
        steps
    }

    fn finished(&self) -> Vec<Step> {
        let mut steps = self.begun();
        steps.extend(self.finish.map(Step::Done));
        steps
    }

    /// The steps of `first`, then `then`.
    fn after(first: Vec<Step>, then: impl IntoIterator<Item = Step>) -> Vec<Step> {
        first.into_iter().chain(then).collect()
    }
}

fn undone(shape: &Shape, all: &mut Vec<Scenario>) {
    let Shape { begin, undo, .. } = shape;
    let steps = Shape::after(shape.begun(), [Step::Done(*undo)]);
    all.push(Scenario::new(format!("{undo}_after_{begin}"), Compensates, 0, steps));
}

fn repeated(shape: &Shape, all: &mut Vec<Scenario>) {
    let Shape { begin, undo, .. } = shape;
    let twice = Shape::after(shape.begun(), [Step::Again(*begin)]);
    all.push(match shape.finish {
        Some(finish) => {
            Scenario::new(format!("{begin}_twice"), Idempotent, 1, Shape::after(twice, [Step::Done(finish)]))
        }
        None => Scenario::new(format!("{begin}_twice"), Idempotent, 1, twice),
    });
    if let Some(finish) = shape.finish {
        let steps = Shape::after(shape.finished(), [Step::Again(finish)]);
        all.push(Scenario::new(format!("{finish}_twice"), Idempotent, 1, steps));
    }
    let steps = Shape::after(shape.begun(), [Step::Done(*undo), Step::Again(*undo)]);
    all.push(Scenario::new(format!("{undo}_twice"), Idempotent, 0, steps));
    let steps = Shape::after(shape.begun(), [Step::Again(*begin), Step::Done(*undo)]);
    all.push(Scenario::new(format!("{undo}_after_{begin}_twice"), Idempotent, 0, steps));
}

fn identity(shape: &Shape, all: &mut Vec<Scenario>) {
    for (name, other) in [
        ("same_key_in_another_transaction", Step::OtherXid),
        ("another_key_in_the_same_transaction", Step::OtherKey),
    ] {
        let steps = Shape::after(Shape::after(shape.finished(), [other]), shape.finished());
        all.push(Scenario::new(name, Idempotent, 2, steps).for_observer());
    }
}

fn out_of_order(shape: &Shape, all: &mut Vec<Scenario>) {
    let Shape { work, begin, finish, undo, .. } = shape;
    // Work without a vote has no effect yet, so it may be done late, and is undone once more; the vote may not.
    let late = || {
        let refused = work.map(Step::Harmless).into_iter().chain([Step::Refused(*begin)]);
        refused.chain(work.map(|_| Step::Done(*undo)))
    };
    let steps = Shape::after(vec![Step::Done(*undo)], late());
    all.push(Scenario::new(format!("{undo}_before_{begin}"), Fenced, 0, steps));
    let steps = Shape::after(Shape::after(shape.begun(), [Step::Done(*undo)]), late());
    all.push(Scenario::new(format!("{begin}_after_{undo}"), Fenced, 0, steps));
    let Some(finish) = *finish else { return };

    // A confirm may be faster than the end of its try. A commit of what was never prepared is an alarm, so it may also
    // be refused; a prepare behind it may be, too.
    let may_refuse = finish == Operation::Commit;
    let early = Step::NotDone { operation: finish, may_refuse };
    if may_refuse {
        all.push(Scenario::new(
            format!("{finish}_before_{begin}"),
            Fenced,
            0,
            vec![early, Step::Done(*undo)],
        ));
    } else {
        let steps = Shape::after(vec![early], shape.finished());
        all.push(Scenario::new(format!("{finish}_before_{begin}"), Fenced, 1, steps));
    }
    let steps = Shape::after(shape.finished(), [Step::Refused(*undo)]);
    all.push(Scenario::new(format!("{undo}_after_{finish}"), Fenced, 1, steps));
    let steps = Shape::after(shape.begun(), [Step::Done(*undo), Step::Refused(finish)]);
    all.push(Scenario::new(format!("{finish}_after_{undo}"), Fenced, 0, steps));
    let late = work.map(Step::Harmless).into_iter().chain([Step::Harmless(*begin)]);
    let steps = Shape::after(shape.finished(), late);
    all.push(Scenario::new(format!("{begin}_after_{finish}"), Fenced, 1, steps));
}

fn answers_dropped(shape: &Shape, all: &mut Vec<Scenario>) {
    let Shape { begin, finish, undo, .. } = shape;
    let cut = |operation: Operation| [Step::HangUp(operation), Step::Done(operation)];
    let mut steps = Shape::after(shape.worked(), cut(*begin));
    steps.extend(finish.map(Step::Done));
    all.push(Scenario::new(format!("{begin}_answer_dropped"), Idempotent, 1, steps));
    if let Some(finish) = *finish {
        let steps = Shape::after(shape.begun(), cut(finish));
        all.push(Scenario::new(format!("{finish}_answer_dropped"), Idempotent, 1, steps));
    }
    let steps = Shape::after(shape.begun(), cut(*undo));
    all.push(Scenario::new(format!("{undo}_answer_dropped"), Idempotent, 0, steps));
    // The usual end of an unknown answer: nobody repeats the try, and its transaction aborts.
    let steps = Shape::after(shape.worked(), [Step::HangUp(*begin), Step::Done(*undo)]);
    all.push(Scenario::new(format!("{undo}_after_{begin}_answer_dropped"), Compensates, 0, steps));
}

fn at_once(shape: &Shape, all: &mut Vec<Scenario>) {
    let Shape { begin, finish, undo, .. } = shape;
    let mut steps = Shape::after(shape.worked(), [Step::AtOnce(*begin)]);
    steps.extend(finish.map(Step::Done));
    all.push(Scenario::new(format!("{begin}_at_once"), Idempotent, 1, steps));
    if let Some(finish) = *finish {
        let steps = Shape::after(shape.begun(), [Step::AtOnce(finish)]);
        all.push(Scenario::new(format!("{finish}_at_once"), Idempotent, 1, steps));
    }
    let steps = Shape::after(shape.begun(), [Step::AtOnce(*undo)]);
    all.push(Scenario::new(format!("{undo}_at_once"), Idempotent, 0, steps));
    let race = [Step::Race(*begin, *undo), Step::Done(*undo), Step::Refused(*begin)];
    let steps = Shape::after(shape.worked(), race);
    all.push(Scenario::new(format!("{undo}_races_{begin}"), Fenced, 0, steps));
}
