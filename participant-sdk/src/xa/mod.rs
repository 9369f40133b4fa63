//! XA branches: a participant's database as a resource manager of two-phase commit.
//!
//! The work of a branch runs in a transaction of its own and is **prepared**: durable, holding its
//! locks, able to go either way, until the coordinator's decision comes, from whatever instance and
//! after whatever crash. [`PostgresResource`] does it with `PREPARE TRANSACTION`, `MySqlResource` with
//! MariaDB's and MySQL's `XA`; the rules are the same and are written once.
//!
//! ```text
//!   work: begin, ledger row `working`, your code, row `committed`, PREPARE, look it up
//!             │                          │                            │
//!             │ held until prepare ◄─────┘ (late form)                ▼
//!             │                                                   prepared ──► vote
//!   rollback: ROLLBACK PREPARED, then the row `rolled_back` where there is none
//!   commit:   COMMIT PREPARED; not known any more: the row says `committed`, or an alarm
//! ```
//!
//! What always holds:
//!
//! * **The ledger's row is part of the prepared transaction**: it can be seen exactly if the effect is
//!   there. So a repeated commit tells "finished already" from "never prepared" (reliability, P5).
//! * **A rollback leaves a row**, which a branch that works or is prepared does not let it write. After
//!   it succeeded nothing of the branch is open and late work is refused: nothing stays prepared.
//! * **Nobody decides alone**: a prepared branch is finished on the coordinator's word only (P4, P6),
//!   and one of another log, another database or another program is shown and never touched (C8).
//! * **A connection goes back to its pool only when it is clean**; any doubt closes it (P7).

mod backend;
mod error;
mod gid;
mod manager;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod registry;
mod resource;
mod settle;
mod work;

pub use backend::{LedgerRow, LedgerState, XaBranch, XaDatabase};
pub use error::{Alarm, OnePhase, Prepared, Settled, WorkError, Worked, XaError};
pub use gid::{ForeignGid, Gid};
pub(crate) use manager::ErasedManager;
pub use manager::{ResourceManager, TwoPhaseCall};
pub use resource::{InDoubt, OtherPrepared, Owner, PreparedBranch, Resource};
pub(crate) use sqlx::Connection;

/// The resource manager for PostgreSQL.
#[cfg(feature = "postgres")]
pub type PostgresResource = Resource<sqlx::Postgres>;

/// The resource manager for MariaDB and MySQL.
#[cfg(feature = "mysql")]
pub type MySqlResource = Resource<sqlx::MySql>;
