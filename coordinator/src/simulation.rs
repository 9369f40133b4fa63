//! What the deterministic simulation needs of the product, and no server has (feature `simulation`): a seed
//! behind all chance, and a gate around each node's tasks.
//!
//! Both are a thread's own: a simulated run is one thread. On a thread without a seed, or outside of a gate,
//! everything is as in a server.

mod gate;

use std::cell::RefCell;
use std::hash::BuildHasher;

use foldhash::fast::{FixedState, FoldHasher};
use uuid::Uuid;

pub use self::gate::Gate;
pub(crate) use self::gate::spawn;

thread_local! {
    static SEEDED: RefCell<Option<fastrand::Rng>> = const { RefCell::new(None) };
}

/// From now on all chance on this thread comes from the seed; from the system again with `None`.
pub fn seed(seed: Option<u64>) {
    SEEDED.set(seed.map(fastrand::Rng::with_seed));
}

fn dice<T>(throw: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
    SEEDED.with_borrow_mut(|dice| dice.as_mut().map(throw))
}

pub(crate) fn uuid() -> Option<Uuid> {
    dice(|dice| uuid::Builder::from_random_bytes(dice.u128(..).to_be_bytes()).into_uuid())
}

/// By the wall clock of the node that the running task belongs to.
pub(crate) fn time_uuid() -> Option<Uuid> {
    dice(|dice| {
        let chance = dice.u128(..).to_be_bytes();
        let mut ten = [0; 10];
        ten.copy_from_slice(&chance[..10]);
        uuid::Builder::from_unix_timestamp_millis(gate::wall_clock_ms(), &ten).into_uuid()
    })
}

pub(crate) fn fraction() -> Option<f64> {
    dice(fastrand::Rng::f64)
}

/// As the engine's tables hash, with a seed if the thread has one.
#[derive(Debug, Clone)]
pub struct HashState(FixedState);

impl Default for HashState {
    fn default() -> Self {
        Self(FixedState::with_seed(dice(|dice| dice.u64(..)).unwrap_or_else(|| fastrand::u64(..))))
    }
}

impl BuildHasher for HashState {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}
