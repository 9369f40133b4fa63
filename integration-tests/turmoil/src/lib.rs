//! Real gRPC over a simulated network: coordinator nodes with their servers, the SDK with its command streams and
//! sessions, and the calls between services, all over turmoil's TCP, in one thread, with faults from one seed. It covers
//! what the deterministic simulation (`integration-tests/simulation`) leaves out: tonic, HTTP/2, connections and names.
//!
//! ```text
//!   teller ── Client: several addresses, or one name ──► node-0, node-1, node-2: Node over one MemoryLog
//!     │ HTTP, with the context                             ▲   │ calls between nodes
//!     ▼                                                    │   ▼
//!   bank-0, bank-1: Participant, its sessions ─────────────┘  operations: commit, rollback
//!     └── ledger: a resource manager that outlives its host
//! ```
//! A seed repeats the faults, their moments, the latencies and the workload. It does not repeat the ids that the SDK mints,
//! nor the order in which tokio asks the branches of a `select!`: those are not ours to seed.

mod bank;
mod faults;
mod hits;
mod ledger;
mod net;
mod node;
mod record;
mod run;
mod teller;

pub use hits::{Hit, Hits};
pub use run::{Report, run, watch_panics};
