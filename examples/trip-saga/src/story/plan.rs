//! What will be booked and killed: all from the seed.

use uuid::Uuid;

use crate::agency::NewTrip;
use crate::services::Kind;
use crate::world;

/// A service to kill when so many trips have been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedKill {
    pub(super) after: u32,
    pub(super) victim: Kind,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) trips: Vec<NewTrip>,
    pub(super) kills: Vec<PlannedKill>,
}

impl Plan {
    pub(super) fn new(seed: u64, trips: u32, kills: Option<u32>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let planned = (0..trips).map(|_| trip(&mut random)).collect();
        let kills = kills.unwrap_or_else(|| (1 + trips / 1_000).min(5));
        Self { trips: planned, kills: self::kills(&mut random, trips, kills) }
    }
}

/// The trip whose hotel will refuse to be cancelled, by a customer who cannot pay.
pub(super) fn stubborn() -> NewTrip {
    NewTrip {
        id: Some(Uuid::new_v4()),
        customer: world::BROKE.to_owned(),
        flight: world::FLIGHTS[0].0.to_owned(),
        hotel: world::STRICT_HOTEL.to_owned(),
        car: world::CARS[0].0.to_owned(),
    }
}

fn trip(random: &mut fastrand::Rng) -> NewTrip {
    let name =
        |random: &mut fastrand::Rng, list: &[(&str, i64)]| list[random.usize(..list.len())].0.to_owned();
    let hotels = world::HOTELS.map(|hotel| hotel.0).into_iter().filter(|hotel| *hotel != world::STRICT_HOTEL);
    let hotels: Vec<&str> = hotels.collect();
    NewTrip {
        // Random, not from the seed: an xid must never come again, also where databases are kept.
        id: Some(Uuid::new_v4()),
        customer: world::CUSTOMERS[random.usize(..world::CUSTOMERS.len())].to_owned(),
        flight: name(random, &world::FLIGHTS),
        hotel: hotels[random.usize(..hotels.len())].to_owned(),
        car: name(random, &world::CARS),
    }
}

/// Spread over the middle of the story; every service gets its turn.
fn kills(random: &mut fastrand::Rng, trips: u32, count: u32) -> Vec<PlannedKill> {
    let mut victims = Kind::ALL;
    random.shuffle(&mut victims);
    let share = trips / (count + 1);
    let victims = victims.into_iter().cycle();
    (1..=count).zip(victims).map(|(n, victim)| PlannedKill { after: n * share, victim }).collect()
}
