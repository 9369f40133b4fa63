//! The deterministic simulation: the real engine on several nodes, over simulated time, network, log and
//! participants, in one thread from one seed. See docs/testing.md for what is simulated and what is not.
//!
//! ```text
//!   managers, readers, operator ──┐                       ┌── participants with databases of their own
//!                                 ▼   simulated network   ▼
//!                  n0, n1, n2: Engine behind a gate (paused, killed, started again)
//!                                 │   faulty way to the database
//!                                 ▼
//!                       MemoryLog, one for all ──▶ checks: I1 to I11 at every block, commit and answer
//! ```
//! The same seed gives the same trace, byte by byte.

mod checks;
mod client;
mod delivery;
mod faults;
mod hits;
mod log;
mod managers;
mod net;
mod node;
mod operator;
mod peers;
mod run;
mod site;
mod swarm;
mod trace;
mod world;

pub use hits::{Hit, Hits};
pub use run::{Report, run, watch_panics};
pub use trace::{Line, short};
