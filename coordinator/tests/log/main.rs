//! One conformance suite for every implementation of `TransactionLog`, and what is special to each.
//! Each test names the protocol's rule that it shows.
#![allow(clippy::print_stderr, reason = "figures and the choice of the server belong to the output")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
mod crowds;
mod faulty;
mod history;
mod model;
mod moves;
mod nodes;
mod on_postgres;
mod on_sqlite;
mod placed;
mod postgres;
mod random;
mod retention;
mod subject;

/// Instantiates each case for each implementation.
macro_rules! for_every_log {
    ($($module:ident :: $case:ident),+ $(,)?) => {
        mod memory { $(#[tokio::test] async fn $case() {
            let subject = crate::subject::Subject::memory(4).await;
            crate::$module::$case(&subject).await;
            subject.finish().await;
        })+ }
        mod sqlite { $(#[tokio::test] async fn $case() {
            let subject = crate::subject::Subject::sqlite(4).await;
            crate::$module::$case(&subject).await;
            subject.finish().await;
        })+ }
        mod placed_on_two { $(#[tokio::test] async fn $case() {
            let subject = crate::subject::Subject::placed(4).await;
            crate::$module::$case(&subject).await;
            subject.finish().await;
        })+ }
        mod postgresql { $(#[tokio::test] async fn $case() {
            let subject = crate::subject::Subject::postgres(4).await;
            crate::$module::$case(&subject).await;
            subject.finish().await;
        })+ }
    };
}

for_every_log! {
    cases::c4_the_same_block_offered_again_is_already_there,
    cases::c7_trim_keeps_birth_and_epoch_blocks_so_that_a_stale_append_hits_a_key,
    cases::c8_a_birth_block_of_another_log_is_found,
    cases::h16_what_cannot_be_stored_is_refused_and_changes_nothing,
    cases::h17_a_damaged_block_is_found,
    cases::h17_a_missing_block_is_found,
    cases::h17_the_missing_first_block_above_the_floor_is_found,
    cases::h17_an_empty_partition_is_not_a_new_one,
    cases::h17_leftovers_below_the_floor_are_ignored,
    cases::h17_reading_is_one_snapshot_while_trims_run,
    cases::two_owners_fight_and_one_wins_each_block,
    cases::m22_an_owner_without_a_lease_does_not_starve_a_claimant,
    cases::m22_a_late_claim_turns_nobody_away,
    cases::leases_of_two_nodes,
    cases::the_clock_is_near_ours,
    crowds::h18_one_deposed_partition_among_many,
    crowds::h18_two_claimants_of_one_partition_among_many,
    crowds::h18_a_definite_error_is_not_blamed_on_the_innocent,
    history::h12_rows_and_watermarks_change_upwards_only,
    history::c8_h6_nothing_is_written_beside_a_log_without_the_block,
    history::m5_unstorable_text_does_not_stop_the_projection,
    history::rows_come_back_as_they_went_in,
    history::pages_and_filters,
    retention::what_is_over_for_long_enough_is_dropped_and_nothing_else,
    retention::c8_the_floor_only_rises,
    nodes::a_node_lives_as_long_as_it_said_by_the_logs_clock,
    nodes::a_view_shows_every_partition_and_its_owner,
    nodes::a_lease_is_handed_to_one_node_and_to_no_other,
    nodes::draining_stays_until_it_is_taken_back,
    nodes::two_processes_of_one_name_and_the_later_one_bears_it,
    nodes::m18_the_agreed_format_only_grows_and_refuses_who_knows_less,
    nodes::m18_who_joins_and_who_raises_do_not_miss_one_another,
}
