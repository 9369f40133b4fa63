//! Enums between the wire and the domain: each word of one is a word of the other.

use unanimity_types::{BranchKind, ErrorCode, Mode, Operation, StepRole, Vote};

use crate::convert::InvalidWire;
use crate::v1;

/// Both directions between a wire enum with `Unspecified` and a domain enum.
macro_rules! same_words {
    ($domain:ident: $($word:ident),+ $(,)?) => {
        impl From<$domain> for v1::$domain {
            fn from(word: $domain) -> Self {
                match word { $($domain::$word => Self::$word),+ }
            }
        }

        impl v1::$domain {
            /// The domain's word; `None` if unspecified.
            #[must_use]
            pub const fn to_domain(self) -> Option<$domain> {
                match self {
                    Self::Unspecified => None,
                    $(Self::$word => Some($domain::$word)),+
                }
            }
        }
    };
}

same_words!(Mode: Tcc, Saga, TwoPhase, Message);
same_words!(BranchKind: Tcc, Step, TwoPhase, Message, Sender);
same_words!(StepRole: Compensatable, Pivot, ForwardOnly);
same_words!(Vote: Prepared, ReadOnly, Refused);
same_words!(Operation: Try, Confirm, Cancel, Action, Compensate, Prepare, Commit, Rollback, CommitOnePhase, Deliver, CheckBack);

impl TryFrom<v1::Mode> for Mode {
    type Error = InvalidWire;

    fn try_from(mode: v1::Mode) -> Result<Self, Self::Error> {
        mode.to_domain().ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|mode| mode.as_str()).collect();
            let message = format!("mode is missing or unknown; known: {}", known.join(", "));
            InvalidWire::new(ErrorCode::InvalidMode, message)
        })
    }
}
