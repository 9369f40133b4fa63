//! `unanimity check participant` against toy participants: a good one of each kind earns every guarantee, and each planted
//! fault is found, under the name of the scenario that shows it.

mod command;
mod faults;
mod good;
mod toy;
mod wire;
