//! What must hold of the log, and what must happen somewhere.

use stateright::Property;

use super::{Append, Kind, Node, State};

impl Append {
    pub(super) fn rules(&self) -> Vec<Property<Self>> {
        let mut rules = vec![
            Property::always("I4 nobody is told both outcomes", |_, state: &State| !state.told_both),
            Property::always("H17 a whole log reads as whole", |_, state: &State| !state.misread),
        ];
        if self.config.lost == 0 {
            rules.push(Property::always("I3 what was told is in the log for ever", Self::i3));
            rules.push(Property::always("I9 one chain: a stale owner writes nothing that counts", Self::i9));
        }
        if self.config.bug.is_none() {
            rules.extend(self.sights());
        }
        rules
    }

    fn i3(&self, state: &State) -> bool {
        let Some((told, _)) = state.told else { return true };
        let floor = state.tip().floor;
        let said = state.rows.range(floor..).rev().find_map(|(_, row)| row.block.says.filter(|_| row.safe));
        said == Some(told)
    }

    /// From the floor on the blocks follow each other, and epochs only grow.
    fn i9(&self, state: &State) -> bool {
        let floor = state.tip().floor;
        let blocks: Vec<_> = state.rows.range(floor..).map(|(_, row)| row.block).collect();
        blocks.windows(2).all(|pair| {
            let fits = match pair[1].kind {
                Kind::Epoch => pair[1].epoch > pair[0].epoch,
                _ => pair[1].epoch == pair[0].epoch,
            };
            fits && pair[0].seq + 1 == pair[1].seq && pair[0].mark == pair[1].previous
        })
    }

    fn sights(&self) -> Vec<Property<Self>> {
        let config = &self.config;
        let mut sights = vec![
            Property::<Self>::sometimes("something is told", |_, state: &State| state.told.is_some()),
            Property::sometimes("two nodes believe to own the partition", |_, state: &State| {
                state.nodes.iter().all(|node| matches!(node, Node::Owns(_)))
            }),
            Property::sometimes("a deposed owner decided otherwise", |_, state: &State| {
                let durable = state.rows.values().rev().find_map(|row| row.block.says);
                durable.is_some()
                    && state.nodes.iter().any(
                        |node| matches!(node, Node::Owns(owner) if owner.memory.is_some() && owner.memory != durable),
                    )
            }),
            Property::sometimes("an append has looked, and its place is taken", |_, state: &State| {
                let taken = |seq| state.rows.contains_key(&seq);
                state.offers.iter().any(|offer| offer.looked && !offer.wrote && taken(offer.block.seq))
            }),
        ];
        if config.unknowns > 0 {
            sights
                .push(Property::sometimes("an append lands that its sender gave up", |_, state: &State| {
                    state.offers.iter().any(|offer| !offer.heard && offer.wrote)
                }));
            sights.push(Property::sometimes("an owner finds its block there", |_, state: &State| {
                state.nodes.iter().any(|node| matches!(node, Node::Owns(owner) if owner.there.is_some()))
            }));
        }
        if config.cleans {
            sights.push(Property::sometimes("a trim has left a gap below the floor", |_, state: &State| {
                let floor = state.tip().floor;
                (1..floor).any(|seq| !state.rows.contains_key(&seq))
            }));
            sights.push(Property::sometimes("a deposed owner's trim goes on", |_, state: &State| {
                !state.trims.is_empty()
                    && state.nodes.iter().all(|node| !matches!(node, Node::Owns(owner) if owner.trimmed))
            }));
        }
        if config.failovers > 0 && config.lost == 0 {
            sights.push(Property::sometimes("a failover loses what was visible", |_, state: &State| {
                let gone = |node: &Node| {
                    matches!(node, Node::Owns(owner) if owner.there.is_some_and(|block| !state.rows.contains_key(&block.seq)))
                };
                state.failovers > 0 && state.nodes.iter().any(gone)
            }));
        }
        if config.lost > 0 {
            sights.push(Property::sometimes("a witness stops an owner", |_, state: &State| {
                state.nodes.contains(&Node::Stopped)
            }));
        }
        sights
    }
}
