//! The coordinator's interfaces: gRPC and HTTP/JSON over one set of handlers.
//!
//! ```text
//!   gRPC  ──convert──┐                       ┌── engine::Coordinator
//!                    ├── Handlers (domain) ──┤
//!   HTTP  ──parse────┘                       └── delivery::AllowList
//! ```
//!
//! # Invariants
//! - Wire types and JSON stop in `grpc` and `http`; handlers see domain types only, so that both
//!   interfaces give the same answers and the same codes.
//! - Every call passes `guard`: a bounded number in hand, a deadline, a metric.
//! - Whatever changes state runs in a task that no client ends: one of its own for a call, its stream's for
//!   a command of a stream. So a deadline or a broken connection never stops it half-way.

mod cursor;
mod duration;
mod grpc;
mod guard;
mod handlers;
mod http;
mod kind;

pub use duration::{InvalidDuration, parse_duration};
pub use guard::Calls;
pub use handlers::{Handlers, InquireInput, ListInput, MoveInput, PageOutput, RegisterInput, ResolveInput};
pub(crate) use http::rfc3339;

use std::sync::Arc;

use axum::Router;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster;
use crate::config::Config;
use crate::delivery::{AllowList, ParticipantsService};
use crate::engine::Coordinator;
use crate::telemetry::Metrics;

/// What the interfaces are made of.
#[derive(Debug)]
pub struct Parts {
    /// The engine.
    pub coordinator: Coordinator,
    /// The way to other nodes, if this one is in a cluster.
    pub router: Option<Arc<cluster::Router>>,
    /// Attached sessions, served beside the coordinator's own service.
    pub participants: ParticipantsService,
    /// Where callbacks may go.
    pub allow: AllowList,
    /// Limits and timeouts.
    pub config: Arc<Config>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// What the log's database says that will hurt.
    pub warnings: watch::Receiver<Vec<String>>,
    /// Cancelled when the node begins to stop: long polls answer, health says so.
    pub closing: CancellationToken,
}

/// The interfaces, ready to be served.
#[derive(Debug)]
pub struct Api {
    /// All routes of the one port.
    pub routes: Router,
    /// The calls in hand, to wait for when stopping.
    pub calls: Calls,
}

/// Puts the interfaces together.
#[must_use]
pub fn assemble(parts: Parts) -> Api {
    let Parts { coordinator, router, participants, allow, config, metrics, warnings, closing } = parts;
    let handlers = Handlers::new(coordinator, router, allow, &config, closing.clone());
    let guard = guard::Guard::new(&config, Arc::clone(&metrics));
    let calls = guard.calls();
    let grpc = grpc::routes(&handlers, participants, &config, &calls, &metrics, closing.clone());
    let http =
        http::routes(http::State::new(handlers, metrics, warnings, closing), config.limits.message_bytes_max);
    let routes = grpc
        .merge(http)
        .fallback(http::not_found)
        .layer(axum::middleware::from_fn_with_state(guard, guard::pass));
    Api { routes, calls }
}
