//! The propagated values as text: the context header and the votes header.
//!
//! ```text
//! unanimity-xid:   0191e7a4-…;call=8c1f…;timeout=9400;log=5b0e…;birth=3.0badcafe.…;later=kept
//! unanimity-votes: inventory%2Freserve%231@8c1f…,payment%2Fdebit%231@77aa…
//! ```
//!
//! Both come from strangers: lengths and counts are bounded, and nothing here panics.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use unanimity_proto::{birth_from_text, birth_to_text, percent_decode, percent_encode};
use unanimity_types::{Birth, BranchKey, LogId, Xid};

/// The longest context header that is read. A real one has about 300 bytes, 700 with the longest name.
pub(crate) const CONTEXT_BYTES_MAX: usize = 1_024;
/// The most parameters in a context header.
const PARAMETERS_MAX: usize = 16;
/// The longest votes header that is read or written: clients commonly accept 16 KiB of headers.
pub(crate) const VOTES_BYTES_MAX: usize = 12 * 1_024;

/// The id of one outgoing call: branch keys of the callee are derived from it (protocol H8).
/// 1 to 32 characters of `A-Z a-z 0-9 - _`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(Box<str>);

impl CallId {
    /// A new random id: 64 bits, unique among the calls of one transaction.
    #[must_use]
    pub fn mint() -> Self {
        let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
        // The two highest bits are UUID's variant; the other 62 are random.
        Self(format!("{low:016x}").into_boxed_str())
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CallId {
    type Err = InvalidContext;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if fits { Ok(Self(text.into())) } else { Err(InvalidContext::Parameter("call")) }
    }
}

/// A context header that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidContext {
    /// Longer than 1,024 bytes, or with more than 16 parameters.
    #[error("the transaction's context is too long")]
    TooLong,
    /// Not printable ASCII.
    #[error("the transaction's context has characters that are not printable ASCII")]
    Characters,
    /// It does not begin with an xid.
    #[error("the transaction's context does not begin with an xid")]
    Xid,
    /// A parameter that we know has a value that it cannot have.
    #[error("the parameter {0} of the transaction's context has an impossible value")]
    Parameter(&'static str),
    /// A parameter without a value, or given twice.
    #[error("the transaction's context has a malformed or repeated parameter")]
    Malformed,
}

/// The context as it travels. Parameters that this version does not know are kept and passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireContext {
    /// The transaction.
    pub xid: Xid,
    /// This call; `None` if the caller sent none (a context written by hand).
    pub call: Option<CallId>,
    /// The time left until the transaction's deadline.
    pub timeout: Option<Duration>,
    /// The log in which the transaction lives.
    pub log_id: Option<LogId>,
    /// What the transaction is, if it was begun without a call.
    pub birth: Option<Birth>,
    /// Parameters of later versions, in their order.
    pub others: Vec<(String, String)>,
}

impl FromStr for WireContext {
    type Err = InvalidContext;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > CONTEXT_BYTES_MAX {
            return Err(InvalidContext::TooLong);
        }
        if !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(InvalidContext::Characters);
        }
        let mut parts = text.split(';');
        let xid = parts.next().unwrap_or_default().trim().parse().map_err(|_| InvalidContext::Xid)?;
        let mut context =
            Self { xid, call: None, timeout: None, log_id: None, birth: None, others: Vec::new() };
        for (count, part) in parts.enumerate() {
            if count >= PARAMETERS_MAX {
                return Err(InvalidContext::TooLong);
            }
            let (key, value) = part.trim().split_once('=').ok_or(InvalidContext::Malformed)?;
            context.set(key, value)?;
        }
        Ok(context)
    }
}

impl WireContext {
    fn set(&mut self, key: &str, value: &str) -> Result<(), InvalidContext> {
        let repeated = match key {
            "call" => self.call.replace(value.parse()?).is_some(),
            "timeout" => {
                // Digits only: `u64::from_str` would also take a sign.
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                let millis = value.parse().ok().filter(|_| digits);
                let timeout =
                    millis.map(Duration::from_millis).ok_or(InvalidContext::Parameter("timeout"))?;
                self.timeout.replace(timeout).is_some()
            }
            "log" => {
                let id = uuid::Uuid::try_parse(value).map_err(|_| InvalidContext::Parameter("log"))?;
                self.log_id.replace(LogId(id)).is_some()
            }
            "birth" => {
                let birth = birth_from_text(value).map_err(|_| InvalidContext::Parameter("birth"))?;
                self.birth.replace(birth).is_some()
            }
            _ => {
                let fits = !key.is_empty()
                    && key.len() <= 32
                    && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                if !fits {
                    return Err(InvalidContext::Malformed);
                }
                let repeated = self.others.iter().any(|(known, _)| known == key);
                self.others.push((key.to_owned(), value.to_owned()));
                repeated
            }
        };
        if repeated { Err(InvalidContext::Malformed) } else { Ok(()) }
    }
}

impl fmt::Display for WireContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.xid)?;
        if let Some(call) = &self.call {
            write!(f, ";call={}", call.as_str())?;
        }
        if let Some(timeout) = self.timeout {
            write!(f, ";timeout={}", timeout.as_millis().min(u128::from(u64::MAX)))?;
        }
        if let Some(log) = self.log_id {
            write!(f, ";log={log}")?;
        }
        if let Some(birth) = &self.birth {
            write!(f, ";birth={}", birth_to_text(birth))?;
        }
        self.others.iter().try_for_each(|(key, value)| write!(f, ";{key}={value}"))
    }
}

/// Prints votes: percent-encoded keys with commas between. The second number says how many did
/// not fit; their absence makes the commit an abort (`branch_not_voted`), never a wrong commit.
pub(crate) fn print_votes<'a>(keys: impl IntoIterator<Item = &'a BranchKey>) -> (String, usize) {
    let mut text = String::new();
    let mut left_out = 0;
    for key in keys {
        let before = text.len();
        if before > 0 {
            text.push(',');
        }
        percent_encode(&mut text, key.as_str(), b"-_.@/:");
        if text.len() > VOTES_BYTES_MAX {
            text.truncate(before);
            left_out += 1;
        }
    }
    (text, left_out)
}

/// Reads votes. `None` if the text is not a list of branch keys.
pub(crate) fn parse_votes(text: &str) -> Option<Vec<BranchKey>> {
    if text.len() > VOTES_BYTES_MAX {
        return None;
    }
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| BranchKey::new(percent_decode(part)?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const XID: &str = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";

    #[test]
    fn hostile_contexts_are_refused() {
        for text in [
            "".to_owned(),
            "x".repeat(2_000),
            format!("{XID};"),
            format!("{XID};call="),
            format!("{XID};call=a b"),
            format!("{XID};call={}", "c".repeat(33)),
            format!("{XID};call=a;call=b"),
            format!("{XID};timeout=-1"),
            format!("{XID};timeout=+1"),
            format!("{XID};timeout=99999999999999999999999"),
            format!("{XID};log=nothing"),
            format!("{XID};birth=3.0badcafe.1"),
            format!("{XID};UPPER=1"),
            format!("{XID};=1"),
            format!("{XID};a=1;a=2"),
            format!("{XID}\u{0}"),
            format!("{XID};a=é"),
            format!("{XID}{}", ";".repeat(40)),
            (0..40).fold(XID.to_owned(), |text, n| format!("{text};p{n}=1")),
        ] {
            assert!(text.parse::<WireContext>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn unknown_parameters_are_kept() {
        let text = format!("{XID};call=ab;timeout=5;ticket=1.2;decide-hash=ff==");
        assert_eq!(text.parse::<WireContext>().expect("valid").to_string(), text);
    }

    #[test]
    fn hostile_votes_are_refused() {
        for text in ["%", "%0", "%zz", "%00", "%ff", &"a".repeat(VOTES_BYTES_MAX + 1), &"a".repeat(200)] {
            assert_eq!(parse_votes(text), None, "{text:?}");
        }
        assert_eq!(parse_votes(" , ,"), Some(Vec::new()));
    }

    #[test]
    fn votes_beyond_the_limit_are_counted() {
        let keys: Vec<_> = (0..500).map(|n| BranchKey::new(format!("{n:0>100}")).expect("valid")).collect();
        let (text, left_out) = print_votes(&keys);
        assert!(left_out > 0 && text.len() <= VOTES_BYTES_MAX);
        assert_eq!(parse_votes(&text).expect("readable").len() + left_out, 500);
    }

    proptest! {
        #[test]
        fn a_context_reads_what_it_writes(
            id in 1u128.., call in proptest::option::of("[A-Za-z0-9_-]{1,32}"),
            timeout in proptest::option::of(any::<u64>()), log in proptest::option::of(any::<u128>()),
            others in proptest::collection::btree_map("x[a-z0-9-]{1,8}", "[ -:<-~]{0,20}", 0..5),
        ) {
            let context = WireContext {
                xid: Xid::new(uuid::Uuid::from_u128(id)),
                call: call.map(|call| call.parse().expect("valid")),
                timeout: timeout.map(Duration::from_millis),
                log_id: log.map(|log| LogId(uuid::Uuid::from_u128(log))),
                birth: None,
                // White space around a parameter is not part of it.
                others: others.into_iter().map(|(key, value)| (key, value.trim().to_owned())).collect(),
            };
            prop_assert_eq!(context.to_string().parse::<WireContext>(), Ok(context));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<WireContext>();
            let _ = format!("{XID};{text}").parse::<WireContext>();
            let _ = parse_votes(&text);
        }

        #[test]
        fn votes_read_what_they_write(keys in proptest::collection::vec("[a-z%,;é注# /]{1,40}", 0..20)) {
            let keys: Vec<_> = keys.into_iter().filter_map(|key| BranchKey::new(key).ok()).collect();
            let (text, left_out) = print_votes(&keys);
            prop_assert_eq!(left_out, 0);
            prop_assert!(text.is_ascii());
            prop_assert_eq!(parse_votes(&text), Some(keys));
        }
    }
}
