//! Money that moves between banks: two-phase commit with XA branches in PostgreSQL and MariaDB.
//!
//! ```text
//!     POST /transfers ──► teller ── begin, commit ──────────────► coordinator
//!                           │ POST /entries, with the context         │
//!               ┌───────────┼───────────┐                             │ commit, rollback
//!               ▼           ▼           ▼                             ▼
//!            north        south        east     ◄─────────────── the banks' participants
//!          PostgreSQL   PostgreSQL   MariaDB
//!
//!     an entry:  UPDATE accounts, INSERT INTO entries, then PREPARE (XA PREPARE): the bank's vote
//! ```
//!
//! Read [`bank::postgres`] and [`bank::mariadb`] first: plain SQL on a plain connection, that is all a bank does.
//! [`bank`] makes a branch of it, [`teller`] two of them a transfer. [`audit`] says what must be true of all databases
//! together, and [`story`] transfers, kills, and counts.

pub mod audit;
pub mod bank;
pub mod services;
pub mod story;
pub mod teller;
