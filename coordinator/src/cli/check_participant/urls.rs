//! Which URL is called for which operation.

use std::collections::BTreeMap;
use std::str::FromStr;

use reqwest::Url;
use unanimity_types::Operation;

use super::Mode;
use crate::cli::Usage;

/// `confirm=http://…`, as it stands on the command line.
#[derive(Debug, Clone)]
pub(super) struct OperationUrl {
    operation: Operation,
    url: Url,
}

impl FromStr for OperationUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (operation, url) = text
            .split_once('=')
            .ok_or("it is OPERATION=URL, for example confirm=http://127.0.0.1:9001/ok")?;
        Ok(Self {
            operation: operation.parse().map_err(|_| format!("{operation:?} is no operation"))?,
            url: Url::parse(url).map_err(|error| format!("{url:?}: {error}"))?,
        })
    }
}

/// The URLs of a mode's operations.
#[derive(Debug)]
pub(super) struct Urls {
    main: Url,
    own: BTreeMap<&'static str, Url>,
}

impl Urls {
    /// # Errors
    /// A URL is not HTTP, an operation is not the mode's or is named twice, or a sender has no local transaction.
    pub(super) fn new(
        mode: Mode,
        main: Url,
        work: Option<Url>,
        own: Vec<OperationUrl>,
    ) -> Result<Self, Usage> {
        let work = work.map(|url| OperationUrl { operation: Operation::Try, url });
        let mut urls = Self { main, own: BTreeMap::new() };
        for OperationUrl { operation, url } in own.into_iter().chain(work) {
            if !operations(mode).contains(&operation) {
                let known =
                    operations(mode).iter().map(|known| known.as_str()).collect::<Vec<_>>().join(", ");
                return Err(Usage(format!("{operation} is no operation of this mode, which has {known}")));
            }
            if urls.own.insert(operation.as_str(), url).is_some() {
                return Err(Usage(format!("{operation} has two URLs")));
            }
        }
        if mode == Mode::Sender && !urls.has(Operation::Try) {
            return Err(Usage(
                "a sender is checked with its local transaction: say where it is with --try URL".to_owned(),
            ));
        }
        for url in urls.own.values().chain([&urls.main]) {
            if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
                return Err(Usage(format!("{url}: participants are called at http:// and https:// URLs")));
            }
        }
        Ok(urls)
    }

    /// Whether the operation was given a URL of its own.
    pub(super) fn has(&self, operation: Operation) -> bool {
        self.own.contains_key(operation.as_str())
    }

    /// Where the operation is called.
    pub(super) fn of(&self, operation: Operation) -> &Url {
        self.own.get(operation.as_str()).unwrap_or(&self.main)
    }
}

/// What may be called in a mode; `try` is the work that the application itself asks for.
fn operations(mode: Mode) -> &'static [Operation] {
    use Operation::{Action, Cancel, CheckBack, Commit, CommitOnePhase, Compensate, Confirm, Deliver};
    use Operation::{Prepare, Rollback, Try};
    match mode {
        Mode::Tcc => &[Try, Confirm, Cancel],
        Mode::Saga => &[Action, Compensate],
        Mode::TwoPhase => &[Try, Prepare, Commit, Rollback, CommitOnePhase],
        Mode::Message => &[Deliver],
        Mode::Sender => &[Try, CheckBack],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(mode: Mode, work: Option<&str>, own: &[&str]) -> Result<Urls, Usage> {
        let parse = |url: &str| Url::parse(url).unwrap();
        let own = own.iter().map(|own| own.parse().unwrap()).collect();
        Urls::new(mode, parse("http://main/"), work.map(parse), own)
    }

    #[test]
    fn an_operation_without_a_url_goes_to_the_main_one() {
        let urls = urls(Mode::Tcc, Some("http://work/"), &["cancel=https://undo/"]).unwrap();
        assert_eq!(urls.of(Operation::Try).as_str(), "http://work/");
        assert_eq!(urls.of(Operation::Confirm).as_str(), "http://main/");
        assert_eq!(urls.of(Operation::Cancel).as_str(), "https://undo/");
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for (mode, work, own) in [
            (Mode::Tcc, None, &["deliver=http://a/"][..]),
            (Mode::Saga, Some("http://a/"), &[]),
            (Mode::Sender, None, &[]),
            (Mode::Tcc, None, &["try=http://a/", "try=http://b/"]),
            (Mode::Tcc, Some("http://a/"), &["try=http://b/"]),
            (Mode::Message, None, &["deliver=ftp://a/"]),
        ] {
            assert!(urls(mode, work, own).is_err(), "{mode:?} {work:?} {own:?}");
        }
        assert!("undo=http://a/".parse::<OperationUrl>().is_err());
        assert!("cancel".parse::<OperationUrl>().is_err());
    }
}
