//! What will be ordered and killed: all from the seed.

use uuid::Uuid;

use crate::demo;
use crate::order::NewOrder;
use crate::services::Kind;

/// A service to kill when so many orders have been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedKill {
    pub(super) after: u32,
    pub(super) victim: Kind,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) orders: Vec<NewOrder>,
    pub(super) kills: Vec<PlannedKill>,
}

impl Plan {
    pub(super) fn new(seed: u64, orders: u32, kills: Option<u32>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let planned = (0..orders).map(|_| order(&mut random)).collect();
        let kills = kills.unwrap_or_else(|| (1 + orders / 1_000).min(5));
        Self { orders: planned, kills: self::kills(&mut random, orders, kills) }
    }
}

fn order(random: &mut fastrand::Rng) -> NewOrder {
    let (sku, _) = demo::PRODUCTS[random.usize(..demo::PRODUCTS.len())];
    let customer = demo::CUSTOMERS[random.usize(..demo::CUSTOMERS.len())];
    NewOrder {
        // Random, not from the seed: an xid must never come again, also where databases are kept.
        id: Some(Uuid::new_v4()),
        customer: customer.to_owned(),
        sku: sku.to_owned(),
        quantity: random.i64(1..=demo::QUANTITY_MAX),
    }
}

/// Spread over the middle of the story; every service gets its turn.
fn kills(random: &mut fastrand::Rng, orders: u32, count: u32) -> Vec<PlannedKill> {
    let mut victims = Kind::ALL;
    random.shuffle(&mut victims);
    let share = orders / (count + 1);
    let victims = victims.into_iter().cycle();
    (1..=count).zip(victims).map(|(n, victim)| PlannedKill { after: n * share, victim }).collect()
}
