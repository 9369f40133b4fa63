//! The teller: takes transfers, makes a global transaction of each, and decides it. Keeps nothing itself.

mod routes;
mod transfer;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use unanimity_sdk::{Client, Xid};
use uuid::Uuid;

pub(crate) use routes::routes;
pub use transfer::{Answer, Outcome};

/// An account of one of the banks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Which bank.
    pub bank: String,
    /// Which of its accounts.
    pub account: String,
}

/// The body of `POST /transfers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// The transfer's id, which is its transaction's. A client that mints it can ask what became of it when no
    /// answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Who gives.
    pub from: Place,
    /// Who gets it, at another bank.
    pub to: Place,
    /// How much; more than nothing.
    pub cents: i64,
}

/// What a teller is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// A bank and where it is; once for each
    #[arg(long = "bank", value_name = "NAME=URL", value_parser = named_url, required = true)]
    pub banks: Vec<(String, String)>,
    /// Not committed by then, a transfer is aborted
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub transfer_timeout_ms: u64,
}

/// `NAME=URL`.
pub(crate) fn named_url(text: &str) -> anyhow::Result<(String, String)> {
    let (name, url) = text.split_once('=').context("it is NAME=URL")?;
    anyhow::ensure!(!name.is_empty() && url.contains("://"), "it is NAME=URL");
    Ok((name.to_owned(), url.to_owned()))
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    client: Client,
    http: reqwest::Client,
    /// By name: the order in which a transfer visits them.
    banks: BTreeMap<String, String>,
    timeout: Duration,
}

impl Teller {
    pub(crate) fn new(client: Client, options: &Options) -> anyhow::Result<Self> {
        Ok(Self {
            client,
            http: crate::services::http_client()?,
            banks: options.banks.iter().cloned().collect(),
            timeout: Duration::from_millis(options.transfer_timeout_ms),
        })
    }

    fn xid(transfer: &Transfer) -> Xid {
        Xid::new(transfer.id.unwrap_or_else(Uuid::new_v4))
    }
}
