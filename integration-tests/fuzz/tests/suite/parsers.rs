//! Texts that come from outside: ids, tickets, births, gids, contexts.

use proptest::prelude::*;
use unanimity_proto::{birth_from_text, birth_to_text, percent_decode, percent_encode};
use unanimity_sdk::xa::Gid;
use unanimity_sdk::{Context, WireContext};
use unanimity_types::{BranchKey, LogId, Name, Ticket, Timestamp, Xid};
use uuid::Uuid;

use crate::cases;

/// Something that looks like it, and anything at all.
fn near(like: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![3 => like, 1 => "\\PC{0,200}", 1 => "[\\x00-\\x7f]{0,120}"]
}

/// What PostgreSQL and MariaDB take between quotes without an escape.
fn needs_no_quotes(text: &str) -> bool {
    (1..=180).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b))
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn xids(text in near("[0-9a-fA-F]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")) {
        if let Ok(xid) = text.parse::<Xid>() {
            prop_assert_eq!(xid.to_string().parse::<Xid>(), Ok(xid));
        }
    }

    #[test]
    fn names_and_keys(text in "\\PC{0,160}|[\\x00-\\x7f]{0,20}|.{0,40}") {
        if let Ok(name) = Name::new(&text) {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(!text.contains('\0') && !text.is_empty() && text.len() <= 128);
            prop_assert!(BranchKey::new(&text).is_ok());
        }
    }

    #[test]
    fn tickets(text in near("[0-9]{0,21}\\.[0-9a-f]{7,9}\\.[0-9]{0,21}"), now: u64) {
        if let Ok(ticket) = text.parse::<Ticket>() {
            prop_assert_eq!(ticket.to_string().parse::<Ticket>(), Ok(ticket));
            let _ = ticket.is_expired(Timestamp(now));
        }
    }

    #[test]
    fn births(text in near(
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\\.[0-9]{1,3}\\.[0-9a-f]{8}\\.[0-9]{1,9}\\.[0-9a-f]{64}\\.[0-9]{1,6}\\.(tcc|two_phase|saga)\\.[a-z%0-9]{0,12}"
    )) {
        if let Ok(birth) = birth_from_text(&text) {
            prop_assert_eq!(birth_from_text(&birth_to_text(&birth)), Ok(birth));
        }
    }

    #[test]
    fn percent_texts(text in "\\PC{0,60}|.{0,20}", encoded in near("[%0-9a-fA-F]{0,40}")) {
        let mut out = String::new();
        percent_encode(&mut out, &text, b"-_");
        prop_assert_eq!(percent_decode(&out), Some(text));
        let _ = percent_decode(&encoded);
    }

    #[test]
    fn context_headers(text in near(
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(;(call|timeout|log|birth|x[a-z]{1,3})=[ -:<-~]{0,40}){0,5}"
    )) {
        if let Ok(wire) = text.parse::<WireContext>() {
            prop_assert_eq!(wire.to_string().parse::<WireContext>(), Ok(wire));
        }
        if let Ok(context) = Context::from_header(&text) {
            prop_assert!(Context::from_header(&context.votes_header()).is_err() || context.remaining().is_none());
        }
    }
}

proptest! {
    #![proptest_config(cases(50_000))]

    /// What is put between quotes without an escape is made of harmless letters, whatever went in.
    #[test]
    fn gids_need_no_quotes(log: u128, xid in 1u128.., key in "\\PC{1,32}|['\";\\\\ -]{1,20}", text in near("una1:[0-9a-f:'; ]{0,110}")) {
        if let Ok(key) = BranchKey::new(&key) {
            let gid = Gid::new(LogId(Uuid::from_u128(log)), Xid::new(Uuid::from_u128(xid)), &key);
            let text = gid.to_string();
            prop_assert!(needs_no_quotes(&text), "{}", text);
            prop_assert_eq!(text.parse::<Gid>(), Ok(gid));
        }
        if let Ok(gid) = text.parse::<Gid>() {
            prop_assert!(needs_no_quotes(&text));
            prop_assert_eq!(gid.to_string(), text);
        }
    }
}
