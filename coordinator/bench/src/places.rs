//! Where the participants are: what their process tells the generators.

use serde::{Deserialize, Serialize};
use unanimity_sdk::StepTarget;

/// The operation of all branches.
pub(crate) const OPERATION: &str = "work";

/// Where the coordinator finds the participants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Participants that the branches are spread over.
    pub(crate) services: u32,
    pub(crate) kind: PlaceKind,
    /// Where the services' tries are called, one for each, if they register their branches themselves.
    pub(crate) tries: Vec<String>,
}

/// How they are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PlaceKind {
    /// Over their sessions.
    Attached,
    /// At these addresses, one for each service.
    Grpc(Vec<String>),
    /// At these URLs, one for each service.
    Http(Vec<String>),
}

impl Places {
    /// The URL that a branch goes to, counted from 0, where participants are called by HTTP.
    pub(crate) fn url(&self, branch: u32) -> Option<&str> {
        match &self.kind {
            PlaceKind::Http(urls) => {
                urls.get(usize::try_from(branch % self.services).unwrap_or(0)).map(String::as_str)
            }
            PlaceKind::Attached | PlaceKind::Grpc(_) => None,
        }
    }

    /// Where a branch goes, counted from 0.
    pub(crate) fn target(&self, branch: u32) -> StepTarget {
        let service = branch % self.services;
        let place = usize::try_from(service).unwrap_or(0);
        match &self.kind {
            PlaceKind::Attached => StepTarget::participant(service_name(service), OPERATION),
            PlaceKind::Grpc(addresses) => StepTarget::grpc(&addresses[place]),
            PlaceKind::Http(urls) => StepTarget::http(&urls[place]),
        }
    }

    /// Where a branch's try is called, if its service registers it.
    pub(crate) fn try_url(&self, branch: u32) -> Option<&str> {
        let service = usize::try_from(branch % self.services).unwrap_or(0);
        self.tries.get(service).map(String::as_str)
    }
}

/// The name of a service, counted from 0.
pub(crate) fn service_name(service: u32) -> String {
    format!("bench-{}", service + 1)
}
