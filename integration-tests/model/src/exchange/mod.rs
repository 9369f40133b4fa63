//! One transaction, two nodes that take its partition from each other, its participants, and a network that
//! loses, delays and doubles.
//!
//! The nodes' memories and the log's contents are transactions of `unanimity-core` (see [`crate::core_table`]);
//! around them stands the least that a driver of the core must do: gather events in a block, write it on the
//! condition that nobody else wrote, and let out what waited for it. Everything else is chance: who dies, who
//! takes over while the other one still believes in itself, what is late and what comes twice.

mod config;
mod node;
mod rules;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stateright::{Model, Property};
use unanimity_types::{Decision, Mode, Operation};

use crate::core_table::{Cmd, Core, EventId, Fx, NOTHING, Out, StateId, Told};

pub use config::{Bug, Config};
pub use site::{Site, Work};

/// Who asked for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// Nobody waits.
    Nobody,
    /// The client that owns the transaction.
    Client,
    /// A participant.
    Site(u8),
}

/// What waits for its block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Held {
    events: Vec<EventId>,
    fx: Vec<Fx>,
    told: Option<(Asker, Told)>,
}

/// What a node that believes to own the partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Life {
    /// Its epoch.
    pub epoch: u8,
    /// The transaction as it is in its memory.
    pub memory: StateId,
    held: Vec<Held>,
    /// A commit waits for the decision.
    waits: bool,
    /// The first tick in which it does not believe in its lease any more.
    lease: u8,
}

/// A request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flight {
    /// The epoch of the owner that sent it.
    pub life: u8,
    /// To whom.
    pub site: u8,
    /// What.
    pub operation: Operation,
    /// Which attempt it is.
    pub attempt: u8,
    /// When it was sent, where that matters.
    pub sent: u8,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fate {
    /// Its sender does not wait for it any more.
    given_up: bool,
    /// It arrived.
    arrived: bool,
}

/// An answer on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reply {
    life: u8,
    site: u8,
    operation: Operation,
    attempt: u8,
    out: Out,
}

/// The client, and what it was told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Client {
    begins: u8,
    begun: bool,
    commits: u8,
    aborts: u8,
    asks: u8,
    /// The epoch of its ticket.
    ticket: Option<u8>,
    /// The outcome that it knows.
    pub told: Option<Decision>,
}

/// A state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The time.
    pub tick: u8,
    /// What the log says.
    pub log: StateId,
    /// The epoch of the last owner that wrote its mark.
    pub epoch: u8,
    /// The nodes.
    pub nodes: [Option<Life>; 2],
    flights: BTreeMap<Flight, Fate>,
    replies: BTreeSet<Reply>,
    /// The participants.
    pub sites: Vec<Site>,
    /// The client.
    pub client: Client,
    deaths: u8,
    takeovers: u8,
    /// Rules that were broken, as bits of [`rules::Rule`].
    wrong: u16,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Somebody asks a node for something.
    Ask(u8, Cmd, Asker),
    /// A client without a call gets its ticket.
    Mint(u8),
    /// A timer goes off.
    Fire(u8, Cmd),
    /// A node writes all that it gathered.
    Append(u8),
    /// A node's block becomes durable, and the node dies before it lets anything out.
    AppendAndDie(u8),
    /// A node dies.
    Die(u8),
    /// A node takes the partition over, whoever else believes to own it.
    TakeOver(u8),
    /// A request arrives; the participant is willing, or it is not.
    Arrive(Flight, bool),
    /// A prepared participant without changes says so.
    ArriveReadOnly(Flight),
    /// An answer arrives.
    Hear(Reply),
    /// The sender of a request gives it up.
    GiveUp(Flight),
    /// A participant's try commits, late or not.
    Try(u8),
    /// A participant loses what it had not prepared.
    Lose(u8),
    /// Time passes.
    Tick,
}

/// The model.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// What is checked.
    pub config: Config,
    pub(crate) core: Arc<Core>,
}

impl Exchange {
    /// A model of this.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut core = Core::new(config.shape());
        core.every_refusal_is_clean = config.bug == Some(Bug::RefusalAlwaysClean);
        core.no_hold = config.bug == Some(Bug::NoHold);
        Self { config, core: Arc::new(core) }
    }

    /// How many different transactions its states held.
    #[must_use]
    pub fn transactions_met(&self) -> usize {
        self.core.met()
    }

    fn is(&self, bug: Bug) -> bool {
        self.config.bug == Some(bug)
    }

    fn client_actions(&self, state: &State, node: u8, life: &Life, actions: &mut Vec<Action>) {
        let (client, config) = (&state.client, &self.config);
        if life.held.len() >= config.held {
            return;
        }
        if config.ticketed {
            if client.ticket.is_none() {
                actions.push(Action::Mint(node));
                return;
            }
        } else if client.begins < config.begins && !client.begun {
            actions.push(Action::Ask(node, Cmd::Begin, Asker::Client));
        }
        let begun = client.begun || client.ticket.is_some();
        if begun && config.mode != Mode::Saga {
            for (site, place) in (0..).zip(&state.sites) {
                if place.registrations < config.registrations && !place.registered {
                    actions.push(Action::Ask(node, Cmd::Register(site), Asker::Site(site)));
                }
            }
            if client.commits < config.commits
                && let Some(votes) = self.votes(state)
            {
                actions.push(Action::Ask(node, Cmd::Commit(votes), Asker::Client));
            }
        }
        if begun && client.aborts < config.aborts {
            actions.push(Action::Ask(node, Cmd::Abort, Asker::Client));
        }
        if client.asks < config.asks {
            actions.push(Action::Ask(node, Cmd::Inquire, Asker::Client));
        }
        for (site, place) in (0..).zip(&state.sites) {
            if config.in_doubt && place.in_doubt() && place.asks < 1 {
                actions.push(Action::Ask(node, Cmd::Inquire, Asker::Site(site)));
            }
        }
    }

    /// What a commit would name, if the client would ask for one now.
    fn votes(&self, state: &State) -> Option<Option<u8>> {
        if self.config.mode == Mode::Tcc {
            let voted = state.sites.iter().enumerate().filter(|(_, site)| site.voted);
            let bits = voted.fold(0, |bits, (place, _)| bits | 1 << place);
            return (bits != 0).then_some(Some(bits));
        }
        // On the client's word: it has heard of all that it asked for.
        let mut asked = state.sites.iter().filter(|site| site.registrations > 0).peekable();
        (asked.peek().is_some() && asked.all(|site| site.registered)).then_some(None)
    }

    fn timers(&self, state: &State, node: u8, life: &Life, actions: &mut Vec<Action>) {
        let look = self.core.look(life.memory);
        if life.memory == NOTHING || life.held.len() >= self.config.held {
            return;
        }
        if look.decision.is_none() {
            let early = self.is(Bug::CommitOnTimeout);
            if state.tick >= look.deadline || early && state.tick + 1 >= look.deadline {
                actions.push(Action::Fire(node, Cmd::Deadline));
            }
            if look.commit_waits {
                actions.push(Action::Fire(node, Cmd::CommitWait));
            }
            if look.preparing {
                actions.push(Action::Fire(node, Cmd::PrepareWait));
            }
        }
        for branch in look.branches.iter().filter(|branch| branch.due.is_some_and(|due| due <= state.tick)) {
            actions.push(Action::Fire(node, Cmd::Retry(branch.site)));
        }
    }

    fn network(&self, state: &State, actions: &mut Vec<Action>) {
        for (flight, fate) in &state.flights {
            if self.can_arrive(state, flight, *fate) {
                actions.push(Action::Arrive(*flight, true));
                let may_refuse = match flight.operation {
                    Operation::Prepare | Operation::CommitOnePhase | Operation::Action => {
                        self.config.refusals
                    }
                    _ => false,
                };
                if may_refuse {
                    actions.push(Action::Arrive(*flight, false));
                }
                if flight.operation == Operation::Prepare && self.config.read_only {
                    actions.push(Action::ArriveReadOnly(*flight));
                }
            }
            if self.can_give_up(state, flight, *fate) && self.has_room(state, flight.life) {
                actions.push(Action::GiveUp(*flight));
            }
        }
        let heard = state.replies.iter().filter(|reply| self.has_room(state, reply.life));
        actions.extend(heard.map(|reply| Action::Hear(*reply)));
    }

    /// Without a fence a request arrives once, and not after its time-out: otherwise nobody could promise
    /// anything (docs/modes.md, "without a fence").
    fn can_arrive(&self, state: &State, flight: &Flight, fate: Fate) -> bool {
        let early = flight.operation == Operation::Confirm
            && state.sites[usize::from(flight.site)].work == Work::Idle;
        if early && flight.attempt > 2 {
            // "Not yet" would be said for ever.
            return false;
        }
        self.config.fenced || !fate.arrived && !self.is_over(state, flight)
    }

    fn can_give_up(&self, state: &State, flight: &Flight, fate: Fate) -> bool {
        let failed = u32::from(flight.attempt) < u32::from(self.config.attempts);
        let sender = state.nodes.iter().flatten().any(|life| life.epoch == flight.life);
        let over = self.config.fenced || self.is_over(state, flight);
        !fate.given_up && failed && sender && over
    }

    fn is_over(&self, state: &State, flight: &Flight) -> bool {
        state.tick >= flight.sent + self.config.call
    }
}

impl Model for Exchange {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            tick: 0,
            log: NOTHING,
            epoch: 0,
            nodes: [None, None],
            flights: BTreeMap::new(),
            replies: BTreeSet::new(),
            sites: vec![Site::default(); usize::from(self.config.sites)],
            client: Client::default(),
            deaths: 0,
            takeovers: 0,
            wrong: 0,
        };
        self.take_over(&mut state, 0);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (node, life) in (0..).zip(&state.nodes) {
            let Some(life) = life else {
                if state.takeovers < self.config.takeovers {
                    actions.push(Action::TakeOver(node));
                }
                continue;
            };
            self.client_actions(state, node, life, actions);
            self.timers(state, node, life, actions);
            let holds = !life.held.is_empty();
            if holds {
                actions.push(Action::Append(node));
            }
            if state.deaths < self.config.deaths {
                actions.push(Action::Die(node));
                if holds && life.epoch == state.epoch {
                    actions.push(Action::AppendAndDie(node));
                }
            }
        }
        self.network(state, actions);
        for (site, place) in (0..).zip(&state.sites) {
            if self.config.mode == Mode::Tcc && place.may_try(self.is(Bug::NoTombstone)) {
                actions.push(Action::Try(site));
            }
            if self.config.mode == Mode::TwoPhase
                && self.config.losses
                && place.work == Work::Idle
                && place.registered
            {
                actions.push(Action::Lose(site));
            }
        }
        if state.tick < self.config.ticks {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Ask(node, cmd, asker) => self.ask(&mut state, node, cmd, asker),
            Action::Mint(node) => {
                let life = state.nodes[usize::from(node)].as_ref()?;
                state.client.ticket = Some(life.epoch);
            }
            Action::Fire(node, cmd) => self.fire(&mut state, node, cmd),
            Action::Append(node) => self.append(&mut state, node, true),
            Action::AppendAndDie(node) => {
                self.append(&mut state, node, false);
                state.nodes[usize::from(node)] = None;
                state.deaths += 1;
            }
            Action::Die(node) => {
                state.nodes[usize::from(node)] = None;
                state.deaths += 1;
            }
            Action::TakeOver(node) => {
                state.takeovers += 1;
                self.take_over(&mut state, node);
            }
            Action::Arrive(flight, willing) => self.arrive(&mut state, flight, willing, false),
            Action::ArriveReadOnly(flight) => self.arrive(&mut state, flight, true, true),
            Action::Hear(reply) => self.hear(&mut state, reply),
            Action::GiveUp(flight) => {
                let (life, site) = (flight.life, flight.site);
                let (operation, attempt) = (flight.operation, flight.attempt);
                self.hear(&mut state, Reply { life, site, operation, attempt, out: Out::Unknown });
            }
            Action::Try(site) => {
                let broken = state.sites[usize::from(site)].try_now();
                state.breaks_if(broken, rules::Rule::I6);
            }
            Action::Lose(site) => state.sites[usize::from(site)].work = Work::RolledBack,
            Action::Tick => state.tick += 1,
        }
        self.tidy(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.rules()
    }
}
