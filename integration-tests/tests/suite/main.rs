//! The tests against real databases, containers and processes: one binary.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod bank;
mod cluster;
mod cluster_bank;
mod damaged_log;
mod frozen_beat;
mod full_disk;
mod mariadb_finder;
mod matrix;
mod one_story;
mod orders;
mod outbox;
mod ownership;
mod pooler;
mod postgres_finder;
mod standby;
mod start_and_stop;
mod trips;
mod upgrade;
