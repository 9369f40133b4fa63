//! Unanimity's wire and log formats: generated code, and its conversions to domain types.
//!
//! Wire types stop at the edge: whoever receives a message converts it to the types of
//! `unanimity-types` at once (`TryFrom`), which is where limits and names are checked.

mod connector;
mod convert;
mod plan;
mod status;
mod target;
mod ticket;
mod words;

pub use connector::{Connection, Connector};
pub use convert::{InvalidWire, position_from_wire, position_to_wire};
pub use plan::{plan_from_wire, plan_to_wire, policy_from_wire, policy_to_wire};
pub use status::{ERROR_DETAIL_TYPE_URL, error_from_status, error_to_status, grpc_code};
pub use target::{target_from_wire, target_to_wire, targets_from_wire, targets_to_wire};
pub use ticket::{
    birth_from_text, birth_from_wire, birth_to_text, birth_to_wire, percent_decode, percent_encode,
    ticket_from_wire, ticket_to_wire,
};

/// The generated code of `unanimity.v1`: what travels.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("unanimity.v1");
}

/// The generated code of `unanimity.log.v1`: what the log holds.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, unused_qualifications)]
pub mod log {
    tonic::include_proto!("unanimity.log.v1");
}

/// The descriptor set of all formats, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The name of the metadata and HTTP header that carries a transaction's context.
pub const CONTEXT_HEADER: &str = "unanimity-xid";

/// The name of the response metadata and HTTP header that carries the branch keys that voted.
pub const VOTES_HEADER: &str = "unanimity-votes";

/// The name of the metadata and HTTP header that says how many nodes passed a call on (protocol M10).
pub const HOPS_HEADER: &str = "unanimity-hops";

/// The name of the response metadata and HTTP header that says which node answered, if it is another one than was
/// asked: its address, to go to with what follows.
pub const OWNER_HEADER: &str = "unanimity-owner";
