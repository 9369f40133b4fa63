//! `unanimity tx retry`, `abort`, `resolve`: an operator's actions.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;
use unanimity_proto::v1;
use unanimity_types::{ErrorCode, Xid};

use super::list::{optional, status_word};
use crate::cli::client::{Addr, CallError, Operator, explain};
use crate::cli::output::Output;

/// Flags of `tx retry`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  unanimity tx retry 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f --reason 'payment is back'

Most of what is owed is tried again by itself, and this only does not wait for the next attempt. What is parked
(a compensation, a forward-only step or a delivery that was refused, or whose attempts are used up) is tried again
only by this: mend first what stopped it, as `tx show` tells. A delivery comes with the same xid and key as before.")]
pub(in crate::cli) struct Retry {
    #[command(flatten)]
    addr: Addr,
    /// The transaction.
    xid: Xid,
    #[command(flatten)]
    by: Operator,
}

impl Retry {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let request = v1::RetryTransactionRequest {
            xid: self.xid.to_string(),
            operator: self.by.name(),
            reason: self.by.reason,
        };
        let mut client = self.addr.connect().await?;
        let standing =
            client.retry_transaction(request).await.map_err(|status| explain(&status))?.into_inner();
        tell(output, &standing);
        Ok(ExitCode::SUCCESS)
    }
}

/// Flags of `tx abort`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity tx abort 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f --reason 'the shop is closed'
  unanimity tx abort 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f --reason 'settles ticket 4711' --unknown

What is committed stays committed. An xid that the coordinator does not know is aborted with --unknown only:
that leaves a record for ever, and the xid can never be committed.")]
pub(in crate::cli) struct Abort {
    #[command(flatten)]
    addr: Addr,
    /// The transaction.
    xid: Xid,
    /// Also if the coordinator knows nothing about it.
    #[arg(long)]
    unknown: bool,
    #[command(flatten)]
    by: Operator,
}

impl Abort {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let request = v1::AbortRequest {
            xid: self.xid.to_string(),
            operator: self.by.name(),
            reason: self.by.reason,
            ..Default::default()
        };
        let mut client = self.addr.connect().await?;
        if !self.unknown {
            // A slip of the keyboard would otherwise become a durable record.
            let look = v1::GetTransactionRequest { xid: self.xid.to_string(), ..Default::default() };
            client.get_transaction(look).await.map_err(|status| not_without_asking(self.xid, &status))?;
        }
        let standing = client.abort(request).await.map_err(|status| explain(&status))?.into_inner();
        tell(output, &standing);
        Ok(ExitCode::SUCCESS)
    }
}

/// Why a look before an abort failed; nothing was aborted.
fn not_without_asking(xid: Xid, status: &tonic::Status) -> anyhow::Error {
    let code = unanimity_proto::error_from_status(status).map(|detail| detail.code);
    if code.as_deref() != Some(ErrorCode::TransactionNotFound.as_str()) {
        return explain(status);
    }
    let message = format!(
        "nothing is known about {xid}, and nothing was done: check the xid and --addr. With --unknown it is aborted \
         all the same; that leaves a record for ever, and a commit that is on its way will be refused"
    );
    CallError { code, message }.into()
}

/// Flags of `tx resolve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  unanimity tx resolve 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f 2 --as confirmed --reason 'booked by hand, ticket 4711'

Confirmed: its effect is there (a step's action was done, a message was received). Cancelled: it is not
(a step was undone, or never ran). The branch's participant is not asked any more. If it is not as you say, the parts of the transaction
disagree: look first. The action is recorded with your name and reason, for ever.")]
pub(in crate::cli) struct Resolve {
    #[command(flatten)]
    addr: Addr,
    /// The transaction.
    xid: Xid,
    /// The branch's number, as `tx show` tells it.
    branch_id: u32,
    /// How it ended: confirmed (its effect is there) or cancelled (it is not).
    #[arg(long = "as")]
    resolve_as: How,
    #[command(flatten)]
    by: Operator,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    Confirmed,
    Cancelled,
}

impl Resolve {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let request = v1::ResolveBranchRequest {
            xid: self.xid.to_string(),
            branch_id: self.branch_id,
            resolve_as: match self.resolve_as {
                How::Confirmed => "confirmed",
                How::Cancelled => "cancelled",
            }
            .to_owned(),
            operator: self.by.name(),
            reason: self.by.reason,
        };
        let mut client = self.addr.connect().await?;
        let standing = client.resolve_branch(request).await.map_err(|status| explain(&status))?.into_inner();
        tell(output, &standing);
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(output: &Output, standing: &v1::DecideResponse) {
    let status = status_word(standing.status);
    output.answer(
        || match optional(&standing.abort_reason) {
            Some(reason) => format!("{} is {status} ({reason})", standing.xid),
            None => format!("{} is {status}", standing.xid),
        },
        || json!({ "xid": standing.xid, "status": status, "abort_reason": optional(&standing.abort_reason) }),
    );
}
