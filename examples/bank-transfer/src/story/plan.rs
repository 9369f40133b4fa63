//! What will be transferred and killed: all from the seed.

use uuid::Uuid;

use crate::bank::account_names;
use crate::teller::{Place, Transfer};

/// Accounts of each bank: few enough that transfers meet, and that some accounts run dry.
pub(super) const ACCOUNTS: u32 = 10;
/// What each has at the beginning, in cents.
pub(super) const OPENING: i64 = 20_000;
/// The most that one transfer moves, in cents.
const CENTS_MAX: i64 = 12_000;

/// A service to kill when so many transfers have been answered.
#[derive(Debug, Clone)]
pub(super) struct PlannedKill {
    pub(super) after: u32,
    pub(super) victim: String,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) transfers: Vec<Transfer>,
    pub(super) kills: Vec<PlannedKill>,
}

impl Plan {
    pub(super) fn new(seed: u64, banks: &[String], transfers: u32, kills: Option<u32>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let planned = (0..transfers).map(|_| transfer(&mut random, banks)).collect();
        let kills = kills.unwrap_or_else(|| (2 + transfers / 1_000).min(8));
        Self { transfers: planned, kills: self::kills(&mut random, banks, transfers, kills) }
    }
}

fn transfer(random: &mut fastrand::Rng, banks: &[String]) -> Transfer {
    let mut banks = banks.to_vec();
    random.shuffle(&mut banks);
    let accounts: Vec<String> = account_names(ACCOUNTS).collect();
    let mut place = |bank: &str| {
        let account = accounts[random.usize(..accounts.len())].clone();
        Place { bank: bank.to_owned(), account }
    };
    let (from, to) = (place(&banks[0]), place(&banks[1]));
    // Random, not from the seed: an xid must never come again.
    Transfer { id: Some(Uuid::new_v4()), from, to, cents: random.i64(1..=CENTS_MAX) }
}

/// Spread over the middle of the story; every bank gets its turn, and the teller.
fn kills(random: &mut fastrand::Rng, banks: &[String], transfers: u32, count: u32) -> Vec<PlannedKill> {
    let mut victims = banks.to_vec();
    victims.push("teller".to_owned());
    random.shuffle(&mut victims);
    let share = transfers / (count + 1);
    let victims = victims.into_iter().cycle();
    (1..=count).zip(victims).map(|(n, victim)| PlannedKill { after: n * share, victim }).collect()
}
