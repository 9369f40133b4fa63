//! Trips booked as sagas: a flight, a hotel, a car, the money, the tickets. All of it, or nothing that stays.
//!
//! ```text
//!     POST /trips ──► agency ── the plan of a saga ──► coordinator ── action, compensate ──► services
//!
//!                      ┌─► hotel ─┐
//!     plan:   flight ──┤          ├──► charge ──► tickets
//!                      └─► car ───┘    (pivot)    (forward only)
//!
//!     flight, hotel, car   are undone by their compensations, if it comes to that
//!     charge               its clean no turns the trip back; once it was sent out, nothing else does
//!     tickets              come when everything else is done, and are tried until they are printed
//! ```
//!
//! Read [`agency::plan`] first: it is the whole saga. [`flights`], [`hotels`] and [`cars`] each have two hooks, in
//! SQL; hotel and tickets get the seat that the flight step brought. [`hotels`] has a house that takes no
//! cancellations: the compensation that fails on purpose. [`story`] books trips, kills services in the middle, mends
//! that one by hand, and counts.

pub mod agency;
pub mod cars;
pub mod database;
pub mod flights;
pub mod hotels;
pub mod invariants;
pub mod services;
pub mod story;
pub mod world;

pub use invariants::{Report, check_invariants};
