//! What nodes and servers do, each step at once.

use unanimity_types::Decision;

use super::{Block, Bug, Follower, Kind, Moving, Node, Offer, Owner, State};

impl State {
    fn table(&self, server: u8) -> &Vec<Block> {
        &self.tables[usize::from(server)]
    }
}

impl Moving {
    /// A node looks at the end of the log where it believes it to be.
    pub(super) fn claim(&self, state: &mut State, node: usize) {
        let Node::Knows(server) = state.nodes[node] else { return };
        if state.table(server).is_empty() && self.is(Bug::PlacementByFile) {
            state.tables[usize::from(server)].push(Block { mark: 0, previous: 0, kind: Kind::Birth });
        }
        let seq = state.table(server).len();
        let Some(tip) = state.table(server).last().copied() else {
            // Never born here: only `migrate` bears a log.
            state.nodes[node] = Node::Out;
            return;
        };
        if let Kind::Seal(target) = tip.kind
            && target != server
            && !self.is(Bug::SealIgnored)
        {
            state.nodes[node] = Node::Follows(Follower {
                source: server,
                target,
                chain: Vec::new(),
                seal: seq - 1,
                imported: false,
            });
            return;
        }
        let mark = state.claims << 4 | u8::try_from(node + 1).unwrap_or_default();
        let offer = Offer { server, seq, block: Block { mark, previous: tip.mark, kind: Kind::Epoch } };
        state.offers.insert(offer);
        state.nodes[node] = Node::Claims(offer);
    }

    pub(super) fn ask(state: &mut State, node: usize, decision: Decision) {
        let Node::Owns(owner) = &mut state.nodes[node] else { return };
        if owner.memory.is_none() {
            owner.memory = Some(decision);
            owner.building = true;
        }
        owner.asked = true;
        Self::release(state, node);
    }

    fn release(state: &mut State, node: usize) {
        let Node::Owns(owner) = &mut state.nodes[node] else { return };
        let Some(decision) = owner.memory.filter(|_| owner.asked) else { return };
        if owner.building || owner.in_flight.is_some() {
            return;
        }
        owner.asked = false;
        state.told_both |= state.told.is_some_and(|before| before != decision);
        state.told = Some(decision);
    }

    pub(super) fn write(state: &mut State, node: usize) {
        let Node::Owns(owner) = &mut state.nodes[node] else { return };
        let kind = Kind::Data(owner.memory);
        owner.building = false;
        Self::offer(state, node, kind);
    }

    fn offer(state: &mut State, node: usize, kind: Kind) {
        let Node::Owns(owner) = &mut state.nodes[node] else { return };
        owner.made += 1;
        let (last, previous) = owner.last;
        let mark = previous ^ 0x80 ^ owner.made << 2;
        let offer = Offer { server: owner.server, seq: last + 1, block: Block { mark, previous, kind } };
        owner.in_flight = Some(offer);
        state.offers.insert(offer);
    }

    /// An operator asks for a move.
    pub(super) fn seal(&self, state: &mut State, node: usize) {
        let Node::Owns(owner) = &state.nodes[node] else { return };
        let (server, seal) = (owner.server, owner.last.0);
        let target = 1 - server;
        state.moves += 1;
        if self.is(Bug::NoSeal) {
            let follower = Follower { source: server, target, chain: Vec::new(), seal, imported: false };
            state.nodes[node] = Node::Follows(follower);
            return;
        }
        Self::offer(state, node, Kind::Seal(target));
    }

    pub(super) fn read_chain(state: &mut State, node: usize) {
        let Node::Follows(follower) = &state.nodes[node] else { return };
        let (source, seal) = (follower.source, follower.seal);
        let went_on = state.table(source).len() != seal + 1;
        if state.place.1 >= seal && seal > 0 || went_on {
            // Somebody else brought it there, or it went on.
            state.nodes[node] = Node::Out;
            return;
        }
        let read = state.table(source).clone();
        if let Node::Follows(follower) = &mut state.nodes[node] {
            follower.chain = read;
        }
    }

    /// In one transaction, and what is there stays.
    pub(super) fn import(state: &mut State, node: usize) {
        let Node::Follows(follower) = &mut state.nodes[node] else { return };
        follower.imported = true;
        let (target, chain) = (usize::from(follower.target), follower.chain.clone());
        let there = state.tables[target].len();
        state.tables[target].extend(chain.into_iter().skip(there));
    }

    pub(super) fn flip(state: &mut State, node: usize) {
        let Node::Follows(follower) = &state.nodes[node] else { return };
        if state.place.0 == follower.source && follower.seal > state.place.1 {
            state.place = (follower.target, follower.seal);
        }
        state.nodes[node] = Node::Out;
    }

    /// The conditional append, at its server.
    pub(super) fn arrive(&self, state: &mut State, offer: Offer) {
        state.offers.remove(&offer);
        let table = &mut state.tables[usize::from(offer.server)];
        let fits = table.len() == offer.seq
            && table.last().is_some_and(|last| {
                let sealed = matches!(last.kind, Kind::Seal(to) if to != offer.server);
                last.mark == offer.block.previous && (!sealed || self.is(Bug::SealIgnored))
            });
        if fits {
            table.push(offer.block);
        }
        let memory = table.iter().find_map(|block| match block.kind {
            Kind::Data(said) => said,
            _ => None,
        });
        let is_its = |node: &Node| match node {
            Node::Claims(claim) => *claim == offer,
            Node::Owns(owner) => owner.in_flight == Some(offer),
            _ => false,
        };
        let Some(place) = state.nodes.iter().position(is_its) else { return };
        if !fits {
            state.nodes[place] = Node::Out;
            return;
        }
        let last = (offer.seq, offer.block.mark);
        match (&mut state.nodes[place], offer.block.kind) {
            (node @ Node::Owns(_), Kind::Seal(target)) => {
                let (source, seal) = (offer.server, offer.seq);
                *node = Node::Follows(Follower { source, target, chain: Vec::new(), seal, imported: false });
            }
            (Node::Owns(owner), _) => {
                owner.in_flight = None;
                owner.last = last;
                Self::release(state, place);
            }
            (node, _) => {
                *node = Node::Owns(Owner {
                    server: offer.server,
                    last,
                    memory,
                    building: false,
                    asked: false,
                    in_flight: None,
                    made: 0,
                });
            }
        }
    }
}
