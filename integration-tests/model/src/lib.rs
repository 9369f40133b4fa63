//! Unanimity's protocol, checked exhaustively: every order in which things can happen, in small worlds.
//!
//! - [`exchange`]: one transaction in each mode, owners that die and take over, participants, a network that
//!   loses and doubles. The coordinator's steps are `unanimity-core`'s own.
//! - [`append`]: a log, two owners, appends that are late, trims, failovers.
//! - [`moving`]: a log that moves between two servers.
//! - [`explore`]: runs Stateright's checker and says what it found.
//!
//! Every rule can be broken on purpose ([`exchange::Bug`]); the checker must then find a way to a
//! broken invariant. Only for tests.

pub mod append;
pub mod core_table;
pub mod exchange;
pub mod explore;
pub mod moving;
