//! What happened, for people and for programs.
#![allow(clippy::print_stdout, reason = "the story's purpose is to print")]

use std::collections::BTreeMap;

use serde_json::json;

use super::{Options, Summary, TransferStory};
use crate::teller::Outcome;

/// Transfers that are shown one by one, and problems.
const EXAMPLES_MAX: usize = 8;

/// One JSON object in one line.
pub(super) fn print_json(summary: &Summary) {
    let seconds = summary.ordering.as_secs_f64().max(0.001);
    let transfers = summary.transfers.len();
    // Counts of transfers are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let per_second = (transfers as f64 / seconds * 10.0).round() / 10.0;
    let object = json!({
        "transfers": transfers,
        "committed": summary.count(Outcome::Committed),
        "aborted": summary.count(Outcome::Aborted),
        "unfinished": summary.unfinished(),
        "invariants_held": summary.invariants_held(),
        "cents_before": summary.report.opening(),
        "cents_after": summary.report.cents(),
        "prepared_at_end": summary.report.prepared(),
        "databases": summary.banks.iter().map(|(_, kind)| kind).collect::<Vec<_>>(),
        "elapsed_ms": u64::try_from(summary.elapsed.as_millis()).unwrap_or(u64::MAX),
        "outcome_unknown_seen": unknown_seen(summary),
        "kills": summary.kills.len(),
        "seed": summary.seed,
        "transfers_per_s": per_second,
        "violations": summary.report.violations.iter().take(EXAMPLES_MAX).collect::<Vec<_>>(),
        "contradictions": summary.contradictions.iter().take(EXAMPLES_MAX).collect::<Vec<_>>(),
    });
    println!("{object}");
}

/// What is about to happen.
pub(super) fn print_beginning(options: &Options, banks: &[(String, &'static str)]) {
    println!("Banks, each with its own database, a teller, and a coordinator:");
    for (name, kind) in banks {
        println!("  {name:<8} {kind}");
    }
    println!("Every transfer is prepared in two databases, then committed in both, or in none.");
    println!("Making {} transfers, {} at a time …\n", options.transfers, options.concurrency);
}

/// A page for somebody who sees this for the first time.
pub(super) fn print(summary: &Summary) {
    print_examples(&summary.transfers);
    print_outcomes(summary);
    print_trouble(summary);
    print_sums(summary);
    println!("It took {} ms. Run the same again: --seed {}", summary.elapsed.as_millis(), summary.seed);
    println!("  --transfers 2000 --concurrency 32   more of it");
    println!("  examples/bank-transfer/README.md    your own databases, and the services step by step");
}

fn print_examples(transfers: &[TransferStory]) {
    println!("Some of the transfers:");
    for TransferStory { transfer, outcome, reason, .. } in examples(transfers) {
        let (from, to) = (&transfer.from, &transfer.to);
        let what =
            format!("{}/{} → {}/{}: {}", from.bank, from.account, to.bank, to.account, euros(transfer.cents));
        let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        println!("  {what:<46} {}{why}", word(*outcome));
    }
    println!();
}

/// Some of each kind, in the order in which they were wanted.
fn examples(transfers: &[TransferStory]) -> Vec<&TransferStory> {
    let mut shown: BTreeMap<(Outcome, &str), usize> = BTreeMap::new();
    let mut examples: Vec<_> = transfers
        .iter()
        .filter(|story| {
            let count = shown.entry((story.outcome, kind(&story.reason))).or_default();
            *count += 1;
            *count <= 2
        })
        .collect();
    examples.truncate(EXAMPLES_MAX);
    examples
}

fn print_outcomes(summary: &Summary) {
    println!("What became of {} transfers:", summary.transfers.len());
    println!("  {:>6}  committed: both banks have their half", summary.count(Outcome::Committed));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for story in summary.transfers.iter().filter(|story| story.outcome == Outcome::Aborted) {
        *reasons.entry(kind(&story.reason)).or_default() += 1;
    }
    for (reason, count) in reasons {
        println!("  {count:>6}  aborted, no bank has anything: {reason}");
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
            "After {} transfers {} was killed (kill -9), and was back {} ms later.",
            kill.after,
            kill.victim,
            kill.away.as_millis()
        );
    }
    let unknown = unknown_seen(summary);
    if unknown > 0 {
        println!("{unknown} clients got no answer at first, asked again, and then knew for certain.");
    }
    if !summary.kills.is_empty() {
        println!("What was prepared stayed so without its process, until the decision came.\n");
    }
}

fn print_sums(summary: &Summary) {
    let report = &summary.report;
    println!("Does it add up?");
    println!("  bank        before         now  entries  prepared");
    for (name, books) in &report.books {
        println!(
            "  {name:<8} {:>9} {:>11} {:>8} {:>9}",
            euros(books.opening),
            euros(books.cents),
            books.entries.len(),
            books.prepared
        );
    }
    println!("  together {:>9} {:>11}", euros(report.opening()), euros(report.cents()));
    println!("  {} transfers with both halves, none with one", report.whole.len());
    for problem in report.violations.iter().chain(&summary.contradictions).take(EXAMPLES_MAX) {
        println!("  WRONG:  {problem}");
    }
    match (summary.invariants_held(), summary.unfinished()) {
        (true, 0) => println!("  Yes: to the cent, and nothing is left prepared.\n"),
        (true, open) => println!("  Not yet: {open} are still under way.\n"),
        (false, _) => println!("  NO. That is a bug in Unanimity or in this example; please report it.\n"),
    }
}

fn unknown_seen(summary: &Summary) -> usize {
    summary.transfers.iter().filter(|story| story.was_unknown).count()
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Unknown => "unknown",
    }
}

/// The part of a reason that many transfers share.
fn kind(reason: &str) -> &str {
    match reason.split_once(": ") {
        Some((_, why)) if why == "not enough money" => why,
        Some((_, why)) if why.contains("no answer") => "a bank did not answer",
        Some(_) => "a bank could not",
        None => reason,
    }
}

fn euros(cents: i64) -> String {
    format!("{}.{:02} €", cents / 100, cents % 100)
}
