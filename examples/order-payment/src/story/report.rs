//! What happened, for people and for programs.
#![allow(clippy::print_stdout, reason = "the story's purpose is to print")]

use std::collections::BTreeMap;

use serde_json::json;

use super::{Options, OrderStory, Summary};
use crate::order::Outcome;

/// Orders that are shown one by one.
const EXAMPLES_MAX: usize = 10;

/// One JSON object in one line.
pub(super) fn print_json(summary: &Summary) {
    let seconds = summary.placing.as_secs_f64().max(0.001);
    let orders = summary.orders.len();
    // Counts of orders are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let per_second = (orders as f64 / seconds * 10.0).round() / 10.0;
    let object = json!({
        "orders": orders,
        "committed": summary.count(Outcome::Committed),
        "aborted": summary.count(Outcome::Aborted),
        "unfinished": summary.unfinished(),
        "invariants_held": summary.invariants_held(),
        "elapsed_ms": u64::try_from(summary.elapsed.as_millis()).unwrap_or(u64::MAX),
        "outcome_unknown_seen": unknown_seen(summary),
        "kills": summary.kills.len(),
        "seed": summary.seed,
        "orders_per_s": per_second,
        "violations": summary.report.violations,
        "contradictions": summary.contradictions.iter().take(EXAMPLES_MAX).collect::<Vec<_>>(),
    });
    println!("{object}");
}

/// What is about to happen.
pub(super) fn print_beginning(options: &Options) {
    println!("Order, payment and inventory services, each with its own database, and a coordinator.");
    println!("Every order is one distributed transaction over all three: all of it happens, or nothing.");
    println!("Placing {} orders, {} at a time …\n", options.orders, options.concurrency);
}

/// A page for somebody who sees this for the first time.
pub(super) fn print(summary: &Summary) {
    print_examples(&summary.orders);
    print_outcomes(summary);
    print_trouble(summary);
    print_sums(summary);
    print_verdict(summary);
    print_further(summary);
}

fn print_examples(orders: &[OrderStory]) {
    println!("Some of the orders:");
    for OrderStory { order, ending } in examples(orders) {
        let what = format!("{} orders {} × {}", order.customer, order.quantity, order.sku);
        let why = if ending.reason.is_empty() { String::new() } else { format!(" ({})", ending.reason) };
        println!("  {what:<28} {}{why}", word(ending.outcome));
    }
    println!();
}

/// Some of each kind, in the order in which they were placed.
fn examples(orders: &[OrderStory]) -> Vec<&OrderStory> {
    let mut shown: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut examples: Vec<_> = orders
        .iter()
        .filter(|story| {
            let count = shown.entry((word(story.ending.outcome), kind(&story.ending.reason))).or_default();
            *count += 1;
            *count <= 3
        })
        .collect();
    examples.truncate(EXAMPLES_MAX);
    examples
}

fn print_outcomes(summary: &Summary) {
    println!("What became of {} orders:", summary.orders.len());
    println!(
        "  {:>6}  committed: stock taken, money paid, order confirmed",
        summary.count(Outcome::Committed)
    );
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for story in summary.orders.iter().filter(|story| story.ending.outcome == Outcome::Aborted) {
        *reasons.entry(kind(&story.ending.reason)).or_default() += 1;
    }
    for (reason, count) in reasons {
        println!("  {count:>6}  aborted, nothing happened anywhere: {reason}");
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
            "After {} orders the {} service was killed (kill -9), and was back {} ms later.",
            kill.after,
            kill.victim,
            kill.away.as_millis()
        );
    }
    let unknown = unknown_seen(summary);
    if unknown > 0 {
        println!("{unknown} customers got no answer at first, asked again, and then knew for certain.");
    }
    if !summary.kills.is_empty() {
        println!("What it was doing was finished or undone, by itself.\n");
    }
}

fn print_sums(summary: &Summary) {
    let (stock, money) = (&summary.report.stock, &summary.report.money);
    let reserved = if stock.reserved > 0 { format!(" + {} reserved", stock.reserved) } else { String::new() };
    println!("Does it add up?");
    println!(
        "  stock:  {} at first = {} left + {} sold{reserved}",
        stock.initial, stock.available, stock.sold
    );
    let held = if money.held > 0 { format!(" + {} held", euros(money.held)) } else { String::new() };
    println!(
        "  money:  {} at first = {} with customers + {} paid{held}",
        euros(money.opening),
        euros(money.customers),
        euros(money.revenue)
    );
    println!(
        "  orders: {} confirmed, {} cancelled, {} pending; {} branches open",
        summary.report.orders.confirmed,
        summary.report.orders.cancelled,
        summary.report.orders.pending,
        summary.report.open_fence_rows()
    );
}

fn print_verdict(summary: &Summary) {
    let problems = summary.report.violations.iter().chain(&summary.contradictions);
    for problem in problems.take(EXAMPLES_MAX) {
        println!("  WRONG:  {problem}");
    }
    match (summary.invariants_held(), summary.unfinished()) {
        (true, 0) => println!("  Yes: every order took effect in all three databases or in none.\n"),
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
                "  ls {kept}   order.db, payment.db, inventory.db, and the coordinator's log unanimity.db"
            );
            println!("  unanimity dev --data-dir {kept}   then, beside it: unanimity tx list");
        }
        None => println!("  --keep DIR   keeps the databases and the coordinator's log to look at"),
    }
    println!("  --orders 2000 --concurrency 32   more of it");
    println!("  examples/order-payment/README.md   the services as processes of their own, step by step");
}

fn unknown_seen(summary: &Summary) -> usize {
    summary.orders.iter().filter(|story| story.ending.was_unknown).count()
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Unknown => "unknown",
    }
}

/// The part of a reason that many orders share.
fn kind(reason: &str) -> &str {
    reason.split_once(": ").map_or(reason, |(kind, _)| kind)
}

fn euros(cents: i64) -> String {
    format!("{}.{:02} €", cents / 100, cents % 100)
}
