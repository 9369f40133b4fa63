//! Callback addresses that were read and found on the allow list, kept so that a call parses none.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use reqwest::Url;
use unanimity_types::Target;

use super::allow::AllowList;

/// Addresses that are kept. Far more than there are services; where each transaction has a URL of its
/// own they are of no use, and start anew.
const ADDRESSES_MAX: usize = 4_096;

/// An address that may be called.
#[derive(Debug)]
pub(super) struct Address {
    /// As the parser understood it.
    pub(super) url: Url,
    /// In the parser's spelling, so that one origin has one bulkhead.
    pub(super) origin: Arc<str>,
}

/// See the module. The allow list never changes while it lives, so what it said once stands.
#[derive(Debug)]
pub(super) struct Addresses {
    allow: AllowList,
    known: RwLock<HashMap<Target, Arc<Address>>>,
}

impl Addresses {
    pub(super) fn new(allow: AllowList) -> Self {
        Self { allow, known: RwLock::default() }
    }

    /// The address to call; none for a participant that attaches.
    ///
    /// # Errors
    /// Why it may not be called.
    pub(super) fn of(&self, target: &Target) -> Result<Option<Arc<Address>>, String> {
        if matches!(target, Target::Participant { .. }) {
            return Ok(None);
        }
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(target) {
            return Ok(Some(Arc::clone(known)));
        }
        // What is refused is not kept: there is no end of it.
        let Some(url) = self.allow.callback_url(target)? else { return Ok(None) };
        let address = Arc::new(Address { origin: url.origin().ascii_serialization().into(), url });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ADDRESSES_MAX {
            known.clear();
        }
        known.insert(target.clone(), Arc::clone(&address));
        Ok(Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_within_a_bound_and_by_their_kind() {
        let addresses = Addresses::new(AllowList::loopback());
        for path in 0..ADDRESSES_MAX + 5 {
            let target = Target::Http(format!("HTTP://127.1:80/{path}").into());
            let address = addresses.of(&target).expect("allowed").expect("an address");
            assert_eq!(&*address.origin, "http://127.0.0.1");
        }
        assert_eq!(addresses.known.read().expect("known").len(), 5);
        let text = "http://localhost/a";
        assert!(addresses.of(&Target::Http(text.into())).is_ok());
        assert!(addresses.of(&Target::Grpc(text.into())).is_err(), "an address of gRPC has no path");
        assert!(addresses.of(&Target::Http("http://10.0.0.1/".into())).is_err());
    }
}
