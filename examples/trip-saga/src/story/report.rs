//! What happened, for people and for programs.
#![allow(clippy::print_stdout, reason = "the story's purpose is to print")]

use std::collections::BTreeMap;

use serde_json::json;

use super::{Options, Summary, TripStory};
use crate::agency::Outcome;

/// Trips that are shown one by one.
const EXAMPLES_MAX: usize = 10;

/// One JSON object in one line.
pub(super) fn print_json(summary: &Summary) {
    let seconds = summary.booking.as_secs_f64().max(0.001);
    let trips = summary.trips.len();
    // Counts of trips are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let per_second = (trips as f64 / seconds * 10.0).round() / 10.0;
    let object = json!({
        "trips": trips,
        "booked": summary.count(Outcome::Booked),
        "turned_back": summary.count(Outcome::TurnedBack),
        "compensated": summary.report.compensated,
        "mended_by_hand": 1,
        "unfinished": summary.unfinished(),
        "invariants_held": summary.invariants_held(),
        "elapsed_ms": u64::try_from(summary.elapsed.as_millis()).unwrap_or(u64::MAX),
        "outcome_unknown_seen": unknown_seen(summary),
        "kills": summary.kills.len(),
        "seed": summary.seed,
        "trips_per_s": per_second,
        "violations": summary.report.violations,
        "contradictions": summary.contradictions.iter().take(EXAMPLES_MAX).collect::<Vec<_>>(),
    });
    println!("{object}");
}

/// What is about to happen.
pub(super) fn print_beginning(options: &Options) {
    println!("A travel agency, flights, hotels and cars, each with its own database, and a coordinator.");
    println!("Every trip is a saga: flight, then hotel and car at once, then the money, then the tickets.");
    println!("Booking {} trips, {} at a time …\n", options.trips, options.concurrency);
}

/// A page for somebody who sees this for the first time.
pub(super) fn print(summary: &Summary) {
    print_examples(&summary.trips);
    print_outcomes(summary);
    print_trouble(summary);
    print_mended(summary);
    print_sums(summary);
    print_further(summary);
}

fn print_examples(trips: &[TripStory]) {
    println!("Some of the trips:");
    for TripStory { trip, outcome, reason, .. } in examples(trips) {
        let what = format!("{}: {}, {}, {} car", trip.customer, trip.flight, trip.hotel, trip.car);
        let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        println!("  {what:<38} {}{why}", word(*outcome));
    }
    println!();
}

/// Some of each kind, in the order in which they were wanted.
fn examples(trips: &[TripStory]) -> Vec<&TripStory> {
    let mut shown: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut examples: Vec<_> = trips
        .iter()
        .filter(|story| {
            let count = shown.entry((word(story.outcome), kind(&story.reason))).or_default();
            *count += 1;
            *count <= 3
        })
        .collect();
    examples.truncate(EXAMPLES_MAX);
    examples
}

fn print_outcomes(summary: &Summary) {
    println!("What became of {} trips:", summary.trips.len());
    println!("  {:>6}  booked, paid, tickets printed", summary.count(Outcome::Booked));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for story in summary.trips.iter().filter(|story| story.outcome == Outcome::TurnedBack) {
        *reasons.entry(kind(&story.reason)).or_default() += 1;
    }
    for (reason, count) in reasons {
        println!("  {count:>6}  turned back, what was booked is given back: {reason}");
    }
    let unknown = summary.count(Outcome::Unknown);
    if unknown > 0 {
        println!("  {unknown:>6}  without an outcome: nobody knows yet");
    }
    println!();
}

fn print_trouble(summary: &Summary) {
    for kill in &summary.kills {
        println!(
            "After {} trips the {} service was killed (kill -9), and was back {} ms later.",
            kill.after,
            kill.victim,
            kill.away.as_millis()
        );
    }
    let unknown = unknown_seen(summary);
    if unknown > 0 {
        println!(
            "{unknown} customers got no answer at first, sent the same again, and then knew for certain."
        );
    }
    if !summary.kills.is_empty() {
        println!("What it was doing was asked for again: done once, or undone.\n");
    }
}

fn print_mended(summary: &Summary) {
    let mended = &summary.mended;
    println!("One compensation failed on purpose, and was mended by hand:");
    println!(
        "  trip {} could not be paid and turned back, but its hotel refused. The coordinator:",
        mended.xid
    );
    println!("    attention: {}", mended.attention);
    let steps: Vec<String> = mended.steps.iter().map(|(name, status)| format!("{name} {status}")).collect();
    println!("    steps:     {}", steps.join(", "));
    println!("  What an operator does (the story did the same by HTTP):");
    for command in &mended.commands {
        println!("    {command}");
    }
    println!("  Then the hotel and, after it, the flight were given back: the trip is {}.\n", mended.status);
}

fn print_sums(summary: &Summary) {
    let report = &summary.report;
    println!("Does it add up? All four databases, trip by trip:");
    println!(
        "  {} complete, with the same seat, room and car on the ticket as in the bookings; {} paid",
        report.complete,
        euros(report.paid)
    );
    println!(
        "  {} compensated; {} never had anything; {} neither",
        report.compensated,
        report.nothing,
        report.under_way.len()
    );
    for problem in report.violations.iter().chain(&summary.contradictions).take(EXAMPLES_MAX) {
        println!("  WRONG:  {problem}");
    }
    match (summary.invariants_held(), summary.unfinished()) {
        (true, 0) => println!("  Yes: every trip has everything, or nothing of it is left.\n"),
        (true, open) => println!("  Not yet: {open} are still under way.\n"),
        (false, _) => println!("  NO. That is a bug in Unanimity or in this example; please report it.\n"),
    }
}

fn print_further(summary: &Summary) {
    let ms = summary.elapsed.as_millis();
    println!("It took {ms} ms. Run the same again: --seed {}", summary.seed);
    println!("Look further:");
    match &summary.kept {
        Some(kept) => {
            let kept = kept.display();
            println!(
                "  ls {kept}   agency.db, flights.db, hotels.db, cars.db, and the coordinator's log unanimity.db"
            );
            println!(
                "  unanimity dev --data-dir {kept}   then, beside it: unanimity tx show {}",
                summary.mended.xid
            );
        }
        None => println!("  --keep DIR   keeps the databases and the coordinator's log to look at"),
    }
    println!("  --trips 2000 --concurrency 32   more of it");
    println!("  examples/trip-saga/README.md   the services as processes of their own, step by step");
}

fn unknown_seen(summary: &Summary) -> usize {
    summary.trips.iter().filter(|story| story.was_unknown).count()
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Booked => "booked",
        Outcome::TurnedBack => "turned back",
        Outcome::Unknown => "unknown",
    }
}

/// The part of a reason that many trips share.
fn kind(reason: &str) -> &str {
    reason.split_once(": ").map_or(reason, |(kind, _)| kind)
}

fn euros(cents: i64) -> String {
    format!("{}.{:02} €", cents / 100, cents % 100)
}
