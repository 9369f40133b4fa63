//! The models, checked: all states of small worlds in every run, and of larger ones when asked (`cargo xtask model
//! --big`).
#![allow(clippy::print_stdout, reason = "what was visited is a part of the result")]

mod append;
mod big;
mod exchange;
mod moving;
