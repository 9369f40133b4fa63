//! Talking to a running coordinator.

use std::time::Duration;

use clap::Args;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_types::Status as TransactionStatus;

use super::Usage;

/// How long to wait for a connection: nodes are near.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long to wait for an answer.
const CALL_MAX: Duration = Duration::from_secs(60);
/// A transaction of 10,000 branches, each with an error text of 1 KiB, has some 12 MiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Which coordinator.
#[derive(Debug, Args)]
pub(super) struct Addr {
    /// The coordinator to talk to.
    #[arg(long, env = "UNANIMITY_ADDR", default_value = "http://127.0.0.1:7460", value_name = "URL")]
    addr: String,
}

/// Who acts, and why.
#[derive(Debug, Args)]
pub(super) struct Operator {
    /// Why; it is recorded with the action.
    #[arg(long)]
    pub(super) reason: String,
    /// Who you are; the name of your login if not given.
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

impl Operator {
    /// Who acts.
    pub(super) fn name(&self) -> String {
        operator_name(self.operator.as_deref())
    }
}

/// Who acts: by the name that was given, or by the login's.
pub(super) fn operator_name(given: Option<&str>) -> String {
    given.map(str::to_owned).or_else(login).unwrap_or_else(|| "unknown".to_owned())
}

/// The user's name as the shell has it, or as the system has it: cron and containers set no variable.
fn login() -> Option<String> {
    let named = |name: String| Some(name.trim().to_owned()).filter(|name| !name.is_empty());
    ["USER", "LOGNAME", "USERNAME"].iter().find_map(|variable| named(std::env::var(variable).ok()?)).or_else(
        || {
            let output = std::process::Command::new("id").arg("-un").output().ok()?;
            named(String::from_utf8(output.stdout).ok()?)
        },
    )
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct CallError {
    /// The stable code, if a coordinator answered.
    pub(super) code: Option<String>,
    pub(super) message: String,
}

impl Addr {
    pub(super) async fn connect(&self) -> anyhow::Result<CoordinatorClient<Channel>> {
        let url = if self.addr.contains("://") { self.addr.clone() } else { format!("http://{}", self.addr) };
        let endpoint = Endpoint::from_shared(url)
            .map_err(|error| {
                Usage(format!("--addr {:?}: {error}; it is a URL such as http://127.0.0.1:7460", self.addr))
            })?
            .connect_timeout(CONNECT_MAX)
            .timeout(CALL_MAX);
        let channel = endpoint.connect().await.map_err(|error| CallError {
            code: None,
            message: format!(
                "cannot reach a coordinator at {}: {}. Start one with `unanimity dev`, or say where it is with --addr \
                 or UNANIMITY_ADDR",
                self.addr,
                innermost(&error)
            ),
        })?;
        Ok(CoordinatorClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

/// What a call's status means to people.
pub(super) fn explain(status: &tonic::Status) -> anyhow::Error {
    let Some(detail) = unanimity_proto::error_from_status(status) else {
        let message = match status.code() {
            Code::Unimplemented => format!("the coordinator is of another version: {}", status.message()),
            _ => format!("the call failed ({}): {}", status.code(), status.message()),
        };
        return CallError { code: None, message }.into();
    };
    let mut message = format!("{} [{}, docs/errors/{}.md]", status.message(), detail.code, detail.code);
    let state =
        unanimity_proto::v1::Status::try_from(detail.status).ok().and_then(|status| status.to_domain());
    if let Some(state) = state
        && !message.contains(TransactionStatus::as_str(state))
    {
        message.push_str(&format!("; it is {state}"));
    }
    CallError { code: Some(detail.code), message }.into()
}

/// The innermost error says what happened; the outer ones say "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
