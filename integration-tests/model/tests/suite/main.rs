//! The models, checked.

mod append;
mod exchange;
