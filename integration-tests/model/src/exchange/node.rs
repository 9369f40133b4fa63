//! What a node does: the least that a driver of the core must do.

use unanimity_types::{Decision, Mode, Operation};

use super::rules::Rule;
use super::{Asker, Bug, Exchange, Fate, Flight, Held, Life, Reply, State};
use crate::core_table::{Cmd, Fx, NOTHING, Out, Told};

/// A lease that nobody has taken away yet.
const LEASED: u8 = u8::MAX;

impl Exchange {
    /// Somebody asks a node for something.
    pub(super) fn ask(&self, state: &mut State, node: u8, cmd: Cmd, asker: Asker) {
        match (cmd, asker) {
            (Cmd::Begin, _) => state.client.begins += 1,
            (Cmd::Register(site), _) => state.sites[usize::from(site)].registrations += 1,
            (Cmd::Commit(_), _) => state.client.commits += 1,
            (Cmd::Abort, _) => state.client.aborts += 1,
            (Cmd::Inquire, Asker::Site(site)) => state.sites[usize::from(site)].asks += 1,
            (Cmd::Inquire, _) => state.client.asks += 1,
            _ => {}
        }
        let Some(life) = &state.nodes[usize::from(node)] else { return };
        // A ticket is judged by the epoch since which tickets are good: here every takeover is an unclean one.
        if life.memory == NOTHING
            && let Some(ticket) = state.client.ticket
            && ticket != life.epoch
        {
            if ticket < life.epoch {
                self.tell(state, asker, Told::Outcome(Decision::Abort));
            }
            return;
        }
        self.run(state, node, cmd, Some(asker));
    }

    /// A timer goes off.
    pub(super) fn fire(&self, state: &mut State, node: u8, cmd: Cmd) {
        let cmd = if cmd == Cmd::Deadline && self.is(Bug::CommitOnTimeout) { Cmd::Commit(None) } else { cmd };
        self.run(state, node, cmd, None);
    }

    /// Carries a command out in a node's memory, and holds what follows until it is durable.
    fn run(&self, state: &mut State, node: u8, mut cmd: Cmd, asker: Option<Asker>) {
        let Some(life) = &mut state.nodes[usize::from(node)] else { return };
        if self.is(Bug::VotesNotCompared) && matches!(cmd, Cmd::Commit(Some(_))) {
            cmd = Cmd::Commit(None);
        }
        let unknown = life.memory == NOTHING;
        let outcome = self.core.step(life.memory, cmd, state.tick);
        let mut told = asker.map(|asker| (asker, outcome.told));
        if unknown && self.is(Bug::UnknownWithoutAppend) && cmd == Cmd::Inquire {
            return self.tell(state, asker.unwrap_or(Asker::Nobody), outcome.told);
        }
        if self.is(Bug::RegisterAfterDecision)
            && matches!((cmd, outcome.told), (Cmd::Register(_), Told::Outcome(_)))
            && !unknown
        {
            told = asker.map(|asker| (asker, Told::Registered));
        }
        life.memory = outcome.memory;
        life.waits |= matches!(told, Some((Asker::Client, Told::Waits)));
        let told = told.filter(|(_, told)| !matches!(told, Told::Nothing | Told::Waits));
        let mut held = Held { events: outcome.events.clone(), fx: outcome.fx.clone(), told };
        let at_once = outcome.lazy
            || self.is(Bug::AnswerBeforeDurable)
            || self.is(Bug::DuplicateFromMemory) && held.events.is_empty();
        let early = at_once.then(|| held.told.take()).flatten();
        let mut sent = Vec::new();
        held.fx.retain(|fx| {
            let Fx::Dispatch { operation, .. } = fx else { return true };
            let now = self.is(Bug::ActBeforeDurable)
                || self.is(Bug::StepBeforeDurable) && *operation == Operation::Action
                || self.is(Bug::CancelBeforeAbortBlock)
                    && matches!(operation, Operation::Cancel | Operation::Rollback);
            if now {
                sent.push(*fx);
            }
            !now
        });
        // What hangs on nothing that is not durable goes at once.
        let free = life.held.is_empty() && held.events.is_empty();
        let is_something = !held.events.is_empty() || !held.fx.is_empty() || held.told.is_some();
        if !free && is_something {
            life.held.push(held.clone());
        }
        if let Some((asker, told)) = early {
            self.tell(state, asker, told);
        }
        for fx in sent {
            self.let_out(state, node, fx);
        }
        if free {
            self.release(state, node, held);
        }
    }

    /// Writes what is held as one block, if nobody else wrote since.
    pub(super) fn append(&self, state: &mut State, node: u8, lives_on: bool) {
        let Some(life) = &mut state.nodes[usize::from(node)] else { return };
        if life.epoch != state.epoch {
            if !self.is(Bug::TakenSeqIgnored) {
                // Its place is taken: it is deposed, and whoever waits is told that the outcome is unknown.
                state.nodes[usize::from(node)] = None;
                return;
            }
            state.breaks(Rule::I9);
        }
        let Some(life) = &mut state.nodes[usize::from(node)] else { return };
        let block = std::mem::take(&mut life.held);
        for event in block.iter().flat_map(|held| &held.events) {
            match self.core.fold(state.log, *event) {
                Some(log) => state.log = log,
                None => state.breaks(Rule::Log),
            }
        }
        if lives_on {
            for held in block {
                self.release(state, node, held);
            }
        }
    }

    /// Makes a node the owner: its epoch block, and what the log says.
    pub(super) fn take_over(&self, state: &mut State, node: u8) {
        state.epoch += 1;
        for other in state.nodes.iter_mut().flatten() {
            // It may have renewed its lease a moment before.
            other.lease = other.lease.min(state.tick + self.config.lease);
        }
        let recovered = self.core.recover(state.log, state.tick);
        let (memory, owed) = (recovered.0, &recovered.1);
        let life = Life { epoch: state.epoch, memory, held: Vec::new(), waits: false, lease: LEASED };
        state.nodes[usize::from(node)] = Some(life);
        let look = self.core.look(memory);
        if look.delegated && self.is(Bug::DelegationPresumedAborted) {
            let branches = u8::try_from(look.branches.len()).unwrap_or(u8::MAX);
            let event = self.core.forced(Decision::Abort, branches, state.tick);
            if let (Some(life), Some(memory)) =
                (&mut state.nodes[usize::from(node)], self.core.fold(memory, event))
            {
                life.memory = memory;
                life.held.push(Held { events: vec![event], fx: Vec::new(), told: None });
            }
            return;
        }
        if look.ticketed && look.decision.is_none() && !self.is(Bug::TakeoverKeepsTicketed) {
            self.run(state, node, Cmd::OwnerChanged, None);
        }
        for fx in owed {
            self.let_out(state, node, *fx);
        }
    }

    fn release(&self, state: &mut State, node: u8, held: Held) {
        for fx in held.fx {
            self.let_out(state, node, fx);
        }
        if let Some((asker, told)) = held.told {
            self.tell(state, asker, told);
        }
    }

    fn let_out(&self, state: &mut State, node: u8, fx: Fx) {
        let Some(life) = &mut state.nodes[usize::from(node)] else { return };
        match fx {
            Fx::Decided(decision) => {
                if std::mem::take(&mut life.waits) {
                    self.tell(state, Asker::Client, Told::Outcome(decision));
                }
            }
            Fx::Dispatch { site, operation, attempt } => {
                if operation.is_forward() && state.tick >= life.lease && !self.is(Bug::LeaseIgnored) {
                    return self.run(state, node, Cmd::Result(site, operation, attempt, Out::NotSent), None);
                }
                let sent = if self.config.fenced { 0 } else { state.tick };
                let flight = Flight { life: life.epoch, site, operation, attempt, sent };
                state.flights.insert(flight, Fate::default());
                if operation == Operation::Compensate && self.is(Bug::CompensationOrder) {
                    for site in 0..site {
                        state.flights.insert(Flight { site, attempt: 1, ..flight }, Fate::default());
                    }
                }
            }
        }
    }

    /// Somebody is told something that binds.
    fn tell(&self, state: &mut State, asker: Asker, told: Told) {
        match (asker, told) {
            (_, Told::Outcome(decision)) => self.tell_outcome(state, asker, decision),
            (Asker::Client, Told::Taken) => state.client.begun = true,
            (Asker::Site(site), Told::Registered) => state.sites[usize::from(site)].registered = true,
            _ => {}
        }
    }

    fn tell_outcome(&self, state: &mut State, asker: Asker, decision: Decision) {
        if !self.stands(state, decision) {
            state.breaks(Rule::I3);
        }
        match asker {
            Asker::Client => {
                if state.client.told.is_some_and(|before| before != decision) {
                    state.breaks(Rule::I4);
                }
                state.client.told = Some(decision);
            }
            // Whoever is in doubt does as it is told.
            Asker::Site(site)
                if state.sites[usize::from(site)].in_doubt() && self.config.mode == Mode::Tcc =>
            {
                let operation = match decision {
                    Decision::Commit => Operation::Confirm,
                    Decision::Abort => Operation::Cancel,
                };
                let (_, asked) = state.sites[usize::from(site)].carry_out(operation, true, false, true);
                if !asked {
                    state.breaks(Rule::I6);
                }
            }
            Asker::Site(_) | Asker::Nobody => {}
        }
    }

    /// Whether this is what the log says, or will for ever say: what is not in it, and can never get into it, is
    /// aborted.
    pub(super) fn stands(&self, state: &State, decision: Decision) -> bool {
        match self.core.look(state.log).decision {
            Some(durable) => durable == decision,
            None => decision == Decision::Abort && state.log == NOTHING && self.config.ticketed,
        }
    }

    /// A request arrives at its participant.
    pub(super) fn arrive(&self, state: &mut State, flight: Flight, willing: bool, read_only: bool) {
        state.flights.entry(flight).or_default().arrived = true;
        let site = usize::from(flight.site);
        if flight.operation == Operation::Compensate {
            let later = state.sites[site + 1..].iter().any(|later| later.work == super::Work::Done);
            state.breaks_if(later, Rule::I7);
        }
        let (out, asked) =
            state.sites[site].carry_out(flight.operation, willing, read_only, self.config.fenced);
        let rule = match self.config.mode {
            Mode::Tcc => Rule::I6,
            Mode::Saga => Rule::I7,
            _ => Rule::I1,
        };
        state.breaks_if(!asked, rule);
        let given_up = state.flights.get(&flight).is_some_and(|fate| fate.given_up);
        let Flight { life, site, operation, attempt, .. } = flight;
        if !given_up && state.nodes.iter().flatten().any(|owner| owner.epoch == life) {
            state.replies.insert(Reply { life, site, operation, attempt, out });
        }
    }

    /// The end of a call comes to the node that sent it, if it still is who it was. It is the only one: what
    /// comes later is dropped (the rule of the coordinator's `delivery` room).
    pub(super) fn hear(&self, state: &mut State, reply: Reply) {
        let is_call = |life, site, operation, attempt| {
            (life, site, operation, attempt) == (reply.life, reply.site, reply.operation, reply.attempt)
        };
        state.replies.retain(|other| !is_call(other.life, other.site, other.operation, other.attempt));
        for (flight, fate) in &mut state.flights {
            fate.given_up |= is_call(flight.life, flight.site, flight.operation, flight.attempt);
        }
        let node =
            state.nodes.iter().position(|life| life.as_ref().is_some_and(|life| life.epoch == reply.life));
        let Some(node) = node else { return };
        let Some(life) = &state.nodes[node] else { return };
        let dropped = reply.out == Out::Unknown && self.core.look(life.memory).decision.is_some();
        if dropped && self.is(Bug::DroppedOnRetryLimit) {
            return;
        }
        let Reply { site, operation, attempt, out, .. } = reply;
        let node = u8::try_from(node).unwrap_or_default();
        self.run(state, node, Cmd::Result(site, operation, attempt, out), None);
    }

    /// Whether the node to which an answer goes has room for what follows.
    pub(super) fn has_room(&self, state: &State, life: u8) -> bool {
        state.nodes.iter().flatten().any(|owner| owner.epoch == life && owner.held.len() < self.config.held)
    }

    /// Takes out of the state what makes no difference any more.
    pub(super) fn tidy(&self, state: &mut State) {
        let lives: Vec<u8> = state.nodes.iter().flatten().map(|life| life.epoch).collect();
        state.replies.retain(|reply| lives.contains(&reply.life));
        let ghosts: Vec<_> = state
            .flights
            .iter()
            .filter(|(flight, fate)| fate.given_up || !lives.contains(&flight.life))
            .map(|(f, fate)| (*f, *fate))
            .collect();
        for (flight, fate) in ghosts {
            state.flights.remove(&flight);
            // Nobody hears its answer: who sent it and how often makes no difference.
            if self.config.fenced || !fate.arrived {
                let ghost = Flight { life: 0, attempt: 0, ..flight };
                state.flights.insert(ghost, Fate { given_up: true, arrived: false });
            }
        }
        if !self.config.fenced {
            let (tick, call) = (state.tick, self.config.call);
            state.flights.retain(|flight, fate| {
                let over = fate.arrived || tick >= flight.sent + call;
                !(over && fate.given_up)
            });
        }
    }
}
