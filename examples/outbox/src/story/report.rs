//! What happened, for people and for programs.
#![allow(clippy::print_stdout, reason = "the story's purpose is to print")]

use serde_json::json;

use super::{Answer, Options, Summary, VoucherStory, Way};
use crate::demo;

/// Problems and dead letters that are shown one by one.
const SHOWN_MAX: usize = 10;

/// One JSON object in one line.
pub(super) fn print_json(summary: &Summary) {
    let report = &summary.report;
    let vouchers: Vec<_> = summary
        .vouchers
        .iter()
        .map(|voucher| {
            json!({
                "way": format!("{:?}", voucher.way),
                "delivered": voucher.delivered,
            })
        })
        .collect();
    let object = json!({
        "orders": summary.orders.len(),
        "taken": summary.count(Answer::Taken),
        "rolled_back": summary.count(Answer::RolledBack),
        "messages": report.lines,
        "delivered": report.picks,
        "dead_letters_replayed": summary.dead.len(),
        "vouchers": vouchers,
        "kills": summary.kills.len(),
        "held": summary.held(),
        "unfinished": summary.unfinished(),
        "elapsed_ms": u64::try_from(summary.elapsed.as_millis()).unwrap_or(u64::MAX),
        "seed": summary.seed,
        "violations": report.violations,
        "contradictions": summary.contradictions.iter().take(SHOWN_MAX).collect::<Vec<_>>(),
    });
    println!("{object}");
}

/// What is about to happen.
pub(super) fn print_beginning(options: &Options) {
    println!("A shop, a warehouse, each with its own database, two relays, and a coordinator.");
    println!("The shop writes each order and its messages in one local transaction. It calls nobody:");
    println!("a relay brings the messages to the coordinator, which delivers them to the warehouse.");
    println!("Placing {} orders, {} at a time …\n", options.orders, options.concurrency);
}

/// A page for somebody who sees this for the first time.
pub(super) fn print(summary: &Summary) {
    print_orders(summary);
    print_dead(summary);
    print_vouchers(&summary.vouchers);
    print_verdict(summary);
    print_further(summary);
}

fn print_orders(summary: &Summary) {
    println!("What became of {} orders:", summary.orders.len());
    println!("  {:>6}  taken, with {} messages", summary.count(Answer::Taken), summary.report.lines);
    let back = summary.count(Answer::RolledBack);
    println!("  {back:>6}  rolled back (not enough credit), and the messages that were written with them");
    let unknown = summary.count(Answer::Unknown);
    if unknown > 0 {
        println!("  {unknown:>6}  without an answer");
    }
    println!();
    for kill in &summary.kills {
        let ms = kill.away.as_millis();
        println!(
            "After {} orders the {} was killed (kill -9), and was back {ms} ms later.",
            kill.after, kill.victim
        );
    }
    let again = summary.orders.iter().filter(|order| order.sent_again).count();
    if again > 0 {
        println!("{again} customers got no answer at first, and sent the same order again.");
    }
    println!();
}

fn print_dead(summary: &Summary) {
    if summary.dead.is_empty() {
        return;
    }
    println!("Dead letters: the warehouse refused them, and the others did not wait for them.");
    for letter in summary.dead.iter().take(SHOWN_MAX) {
        println!("  {}  {} ({}): {}", letter.id, letter.key, letter.cause, letter.reason);
    }
    println!("An operator made a shelf for the {} and replayed them:", demo::NO_SHELF);
    println!("  curl localhost:7482/dead-letters");
    println!("  curl -X POST localhost:7482/dead-letters/{}/replay\n", summary.dead[0].id);
}

fn print_vouchers(vouchers: &[VoucherStory]) {
    if vouchers.is_empty() {
        return;
    }
    println!("Vouchers, by prepared messages:");
    for VoucherStory { way, delivered, .. } in vouchers {
        let what = match way {
            Way::Well => "prepared, committed, submitted",
            Way::RolledBack => "prepared, rolled back: given up",
            Way::DiesBeforeCommit => "prepared; the shop died before its commit; the coordinator asked it",
            Way::DiesAfterCommit => "prepared, committed; the shop died; the coordinator asked it",
        };
        println!("  {what}: {}", if *delivered { "delivered" } else { "not delivered" });
    }
    println!();
}

fn print_verdict(summary: &Summary) {
    let report = &summary.report;
    println!("Does it add up?");
    println!("  orders:   {} messages committed = {} picked by the warehouse", report.lines, report.picks);
    println!("  vouchers: {} committed = {} mailed", report.vouchers, report.letters);
    for problem in report.violations.iter().chain(&summary.contradictions).take(SHOWN_MAX) {
        println!("  WRONG:    {problem}");
    }
    match (summary.held(), summary.unfinished()) {
        (true, 0) => println!(
            "  Yes: each message of what committed took effect once, each customer's in their order, and\n  \
             none of what was rolled back.\n"
        ),
        (true, open) => println!("  Not yet: {open} are still under way.\n"),
        (false, _) => println!("  NO. That is a bug in Unanimity or in this example; please report it.\n"),
    }
}

fn print_further(summary: &Summary) {
    println!("It took {} ms. Run the same again: --seed {}", summary.elapsed.as_millis(), summary.seed);
    println!("Look further:");
    match &summary.kept {
        Some(kept) => {
            let kept = kept.display();
            println!("  ls {kept}   shop.db, warehouse.db, and the coordinator's log unanimity.db");
            println!("  unanimity dev --data-dir {kept}   then, beside it: unanimity tx list");
        }
        None => println!("  --keep DIR   keeps the databases and the coordinator's log to look at"),
    }
    println!("  --orders 2000 --concurrency 32   more of it");
    println!("  examples/outbox/README.md   the services as processes of their own, step by step");
}
