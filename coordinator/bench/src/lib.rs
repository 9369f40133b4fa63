//! Unanimity's load generator: what `unanimity bench` runs.
//!
//! ```text
//!   first process ── pipes ──► participants' process   answers operations, sees the last one come
//!        │                            ▲ confirm, cancel, action, deliver …
//!        ├── pipes ──► generators ── begin, register, commit ──► coordinator, wherever it runs
//!        └── GetInfo before and after ─────────────────────────►
//! ```
//!
//! What always holds:
//!
//! * **It measures from outside.** The coordinator under test is a process that runs already; nothing of it
//!   is in here.
//! * **Every process' time is its own.** Generators and participants are processes, so that what the
//!   coordinator costs can be told from what measuring it costs.
//! * **A stall is seen.** An open loop counts latencies from the moment when a transaction was to begin.
//! * **It ends when all is over**, or says how much was left unfinished.

mod burden;
mod clock;
mod counters;
mod cpu;
mod driver;
mod error;
mod measure;
mod options;
mod pace;
mod participants;
mod places;
mod report;
mod run;
mod stamp;
mod worker;

pub use clock::now_us;
pub use driver::{Driver, Shot};
pub use error::{Error, OptionError};
pub use measure::{End, Outcome, Quantiles};
pub use options::{CpuOf, Database, Options, Product, Reach, Workload};
pub use report::{CpuPerTransaction, Latency, PerSecond, PerTransaction, Report};
pub use run::{run, work};
pub use worker::Launch;
