//! Sending reqwest requests inside a transaction.

use std::future::Future;

use crate::context::Context;
use crate::propagation::call::OutgoingCall;

/// Sends a reqwest request as part of a transaction: its context goes along, the votes come back.
///
/// ```no_run
/// use unanimity_sdk::{GlobalTransaction, SendInTransaction};
///
/// # async fn f(http: reqwest::Client, tx: GlobalTransaction) -> reqwest::Result<()> {
/// http.post("http://inventory/reserve").body("1").send_in(&tx).await?.error_for_status()?;
/// # Ok(()) }
/// ```
pub trait SendInTransaction: Sized {
    /// Sends it inside the given transaction: a [`crate::GlobalTransaction`] or a [`Context`].
    fn send_in(
        self,
        transaction: &impl AsRef<Context>,
    ) -> impl Future<Output = reqwest::Result<reqwest::Response>> + Send;

    /// Sends it inside the current transaction; plainly if there is none.
    fn send_in_current(self) -> impl Future<Output = reqwest::Result<reqwest::Response>> + Send;
}

impl SendInTransaction for reqwest::RequestBuilder {
    fn send_in(
        self,
        transaction: &impl AsRef<Context>,
    ) -> impl Future<Output = reqwest::Result<reqwest::Response>> + Send {
        send(self, Some(transaction.as_ref().clone()))
    }

    fn send_in_current(self) -> impl Future<Output = reqwest::Result<reqwest::Response>> + Send {
        send(self, Context::current())
    }
}

async fn send(
    request: reqwest::RequestBuilder,
    context: Option<Context>,
) -> reqwest::Result<reqwest::Response> {
    let (client, request) = request.build_split();
    let mut request = request?;
    let Some(context) = context else { return client.execute(request).await };
    let call = OutgoingCall::new(context);
    call.write_to(request.headers_mut());
    let answer = client.execute(request).await;
    match &answer {
        Ok(response) => call.answered(response.status(), response.headers()),
        Err(error) => call.failed(error),
    }
    answer
}
