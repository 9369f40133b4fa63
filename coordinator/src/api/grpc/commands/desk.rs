//! The desk of a stream: which commands are in hand, until when each is to be answered, and which answers are
//! due. It knows neither tasks nor channels.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;
use unanimity_proto::v1;
use unanimity_proto::v1::answer::Kind as Answered;
use unanimity_proto::v1::command::Kind;
use unanimity_types::ErrorCode;

use crate::api::grpc::command_error;
use crate::api::guard::{Hand, deadline_exceeded};
use crate::engine::Error;
use crate::telemetry::{Metrics, RouteMetrics};

/// The calls that commands stand for: they are counted together.
const ROUTES: [&str; 6] = [
    "/unanimity.v1.Coordinator/Begin",
    "/unanimity.v1.Coordinator/RegisterBranch",
    "/unanimity.v1.Coordinator/Vote",
    "/unanimity.v1.Coordinator/Commit",
    "/unanimity.v1.Coordinator/Abort",
    "/unanimity.v1.Coordinator/GetTransaction",
];

fn route_of(kind: &Kind) -> usize {
    match kind {
        Kind::Begin(_) => 0,
        Kind::Register(_) => 1,
        Kind::Vote(_) => 2,
        Kind::Commit(_) => 3,
        Kind::Abort(_) => 4,
        Kind::Get(_) => 5,
    }
}

/// A command to carry out; its result goes to [`Desk::done`] with the slot.
pub(super) struct Job {
    pub(super) slot: usize,
    pub(super) kind: Kind,
    pub(super) deadline: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Running,
    /// Its client was told that its time is over; it runs on.
    Expired,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: State,
    id: u64,
    route: usize,
    began: Instant,
    deadline: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Desk {
    slots: Vec<Slot>,
    free: Vec<usize>,
    answers: Vec<v1::Answer>,
    /// Of the answers, those whose command counted as a call in hand and does until they leave.
    held: usize,
    hand: Hand,
    /// No running command is due before.
    look_at: Option<Instant>,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
    answered: [RouteMetrics; 6],
}

impl Desk {
    pub(super) fn new(hand: Hand, metrics: &Arc<Metrics>, request_timeout: Duration) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            answers: Vec::new(),
            held: 0,
            hand,
            look_at: None,
            request_timeout,
            metrics: Arc::clone(metrics),
            answered: ROUTES.map(|route| metrics.route(route, "grpc_0")),
        }
    }

    /// How much is taken and not answered, or answered and not sent.
    pub(super) fn owed(&self) -> usize {
        self.slots.len() - self.free.len() + self.answers.len()
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// When [`Desk::expire`] may have something to do.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Takes a command, or answers at once why not.
    pub(super) fn take(&mut self, command: v1::Command) -> Option<Job> {
        let v1::Command { id, timeout_ms, kind } = command;
        let Some(kind) = kind else {
            let message = "command: none, or of a kind that this coordinator does not know";
            self.answer(id, Err(Error::new(ErrorCode::InvalidRequest, message)));
            return None;
        };
        let route = route_of(&kind);
        if !self.hand.take() {
            let error = self.hand.refusal();
            self.count(route, &Err(error.code), Duration::ZERO);
            self.answer(id, Err(error));
            return None;
        }
        let timeout = match timeout_ms {
            0 => self.request_timeout,
            millis => Duration::from_millis(millis).min(self.request_timeout),
        };
        let began = Instant::now();
        let deadline = began + timeout;
        self.look_at = Some(self.look_at.map_or(deadline, |at| at.min(deadline)));
        let running = Slot { state: State::Running, id, route, began, deadline };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = running;
                slot
            }
            None => {
                self.slots.push(running);
                self.slots.len() - 1
            }
        };
        Some(Job { slot, kind, deadline })
    }

    /// A command has ended.
    pub(super) fn done(&mut self, slot: usize, result: Result<Answered, Error>) {
        let Slot { state, id, route, began, .. } = self.slots[slot];
        self.slots[slot].state = State::Free;
        self.free.push(slot);
        if state == State::Expired {
            self.hand.give(1);
            return;
        }
        let code = result.as_ref().map(|_| ()).map_err(|error| error.code);
        self.count(route, &code, began.elapsed());
        self.held += 1;
        self.answer(id, result);
    }

    /// Answers commands whose time is over. They run on, and count as in hand until they end.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.look_at.is_none_or(|at| now < at) {
            return;
        }
        self.look_at = None;
        for slot in 0..self.slots.len() {
            let Slot { state, id, route, began, deadline } = self.slots[slot];
            if state != State::Running {
                continue;
            }
            if now < deadline {
                self.look_at = Some(self.look_at.map_or(deadline, |at| at.min(deadline)));
                continue;
            }
            self.slots[slot].state = State::Expired;
            let error = deadline_exceeded(deadline - began);
            self.count(route, &Err(error.code), now - began);
            self.answer(id, Err(error));
        }
    }

    /// The oldest answers, at most so many and up to where transactions in them have so many bytes, to be sent.
    pub(super) fn answers(&mut self, max: usize, found_bytes_max: usize) -> Vec<v1::Answer> {
        let mut found_bytes = 0;
        let fits = self.answers.iter().take(max).take_while(|answer| {
            let fits = found_bytes < found_bytes_max;
            if let Some(Answered::Found(found)) = &answer.kind {
                found_bytes += found.encoded_len();
            }
            fits
        });
        let count = fits.count();
        let answers = if count == self.answers.len() {
            std::mem::take(&mut self.answers)
        } else {
            self.answers.drain(..count).collect()
        };
        let given = self.held.min(answers.len());
        self.held -= given;
        self.hand.give(given);
        answers
    }

    fn answer(&mut self, id: u64, result: Result<Answered, Error>) {
        let kind = result.unwrap_or_else(|error| Answered::Error(command_error(error)));
        self.answers.push(v1::Answer { id, kind: Some(kind) });
    }

    fn count(&self, route: usize, result: &Result<(), ErrorCode>, took: Duration) {
        match result {
            Ok(()) => self.answered[route].answered(took),
            Err(code) => {
                let code = format!("grpc_{}", unanimity_proto::grpc_code(*code) as i32);
                self.metrics.request(ROUTES[route], &code, took);
            }
        }
    }
}
