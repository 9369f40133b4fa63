//! The crash-point matrix: what must be true after a process died at a precise point, for every row of the table in
//! docs/testing.md. Rows that need no process are shown elsewhere, as the table says.
//!
//! The processes are real and die by a failpoint (`unanimity_failpoints`), each time proven by the signal and the last
//! line of their output. A case says where the coordinator dies in a story, at which hit, where the restarts die in
//! their turn, and what else goes wrong; the verdict is read from the participants' databases, from what the TM was
//! told, and from the coordinator.

mod archive;
mod bank;
mod c;
mod case;
mod kp;
mod moves;
mod o;
mod peer;
mod races;
mod s;
mod story;
mod table;
mod world;
