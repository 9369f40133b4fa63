//! What will be ordered and killed: all from the seed.

use uuid::Uuid;

use super::stack::Member;
use crate::demo;
use crate::shop::{Line, NewOrder};

/// Lines of one order, at most.
const LINES_MAX: usize = 3;

/// Who to kill when so many orders have been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedKill {
    pub(super) after: u32,
    pub(super) victim: Member,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) orders: Vec<NewOrder>,
    pub(super) kills: Vec<PlannedKill>,
}

impl Plan {
    pub(super) fn new(seed: u64, orders: u32, kills: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut planned: Vec<NewOrder> = (0..orders).map(|_| order(&mut random)).collect();
        // One line that the warehouse will refuse, of a customer who can pay for it.
        let odd = random.usize(..planned.len());
        planned[odd].customer = "ada".to_owned();
        planned[odd].lines[0].sku = demo::NO_SHELF.to_owned();
        Self { orders: planned, kills: self::kills(&mut random, orders, kills) }
    }
}

fn order(random: &mut fastrand::Rng) -> NewOrder {
    let customers: Vec<String> = demo::customers(8).collect();
    let usual: Vec<&str> =
        demo::PRODUCTS.iter().map(|(sku, _)| *sku).filter(|sku| *sku != demo::NO_SHELF).collect();
    let lines = (0..random.usize(1..=LINES_MAX))
        .map(|_| Line { sku: usual[random.usize(..usual.len())].to_owned(), quantity: random.i64(1..=3) });
    NewOrder {
        // Random, not from the seed: an id must never come again, also where databases are kept.
        id: Uuid::new_v4(),
        lines: lines.collect(),
        customer: customers[random.usize(..customers.len())].clone(),
    }
}

/// Spread over the middle of the story; everybody gets a turn.
fn kills(random: &mut fastrand::Rng, orders: u32, count: u32) -> Vec<PlannedKill> {
    let mut victims = Member::ALL;
    random.shuffle(&mut victims);
    let share = (orders / (count + 1)).max(1);
    (1..=count)
        .zip(victims.into_iter().cycle())
        .map(|(n, victim)| PlannedKill { after: n * share, victim })
        .collect()
}
