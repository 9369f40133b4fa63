//! Carrying the context over calls, and the votes back.
//!
//! ```text
//!  TM ── ClientLayer ──► unanimity-xid: <xid>;call=…;timeout=… ──► ServerLayer ── handler ── try
//!     ◄── votes added ── unanimity-votes: <keys that tried> ◄──── collected ◄────────────┘
//! ```

mod call;
mod client;
#[cfg(feature = "axum")]
mod extract;
#[cfg(feature = "reqwest")]
mod request;
mod server;

pub use client::{ClientLayer, ClientService};
#[cfg(feature = "axum")]
pub use extract::MissingTransaction;
#[cfg(feature = "reqwest")]
pub use request::SendInTransaction;
pub use server::{ServerLayer, ServerService};
