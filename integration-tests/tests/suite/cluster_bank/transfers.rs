//! How a transfer is made in each mode.

use std::time::Duration;

use serde_json::{Value, json};
use unanimity_sdk::{
    Client, GlobalTransaction, Saga, SendInTransaction as _, TransactionBuilder, TransactionError, Xid,
};
use uuid::Uuid;

use super::clients::{Clients, Mode, Wanted};
use crate::orders::Told;

/// Not decided for so long, a transfer is aborted: who died in the middle leaves accounts held for so long.
const TIMEOUT: Duration = Duration::from_secs(8);
/// The same for sagas, which wait for banks that are away.
const SAGA_TIMEOUT: Duration = Duration::from_secs(15);

impl Clients {
    /// Makes a transfer: its id and what was said of it. None if it has no id: nothing was begun.
    pub(super) async fn transfer(
        &self,
        sdk: &Client,
        wanted: &Wanted,
        random: &mut fastrand::Rng,
    ) -> Option<(Uuid, Told)> {
        // Not from the seed: an xid must never come again.
        let id = Uuid::new_v4();
        match wanted.mode {
            Mode::Tcc | Mode::Locked => self.begun(sdk.transaction("transfer"), id, wanted).await,
            Mode::TwoPhase => self.begun(sdk.two_phase("transfer"), id, wanted).await,
            mode => {
                self.ordered(id, wanted);
                let told = match mode {
                    Mode::TccHttp => self.tcc_by_http(id, wanted, random).await,
                    Mode::Saga => self.saga(sdk, id, wanted).await,
                    Mode::SagaHttp => self.saga_by_http(id, wanted, random).await,
                    _ => self.message(id, wanted).await,
                };
                Some((id, told.unwrap_or(Told::Unknown)))
            }
        }
    }

    fn part(id: impl std::fmt::Display, wanted: &Wanted, account: &str, cents: i64) -> Value {
        json!({
            "transfer": id.to_string(), "account": account, "cents": cents, "approved": wanted.approved,
            "locked": wanted.mode == Mode::Locked && account == wanted.from.1,
        })
    }

    /// What a transaction asks of the banks: URL and body, in the order of the banks' names. What is prepared holds
    /// its account, so two transfers in opposite order would wait for each other where no database can see it.
    fn asks(&self, id: impl std::fmt::Display + Copy, wanted: &Wanted) -> [(String, Value); 2] {
        let (from, to) = (&wanted.from, &wanted.to);
        let ask = |bank: &str, path: &str, account: &str, cents: i64| {
            (format!("{}/{path}", self.bank(bank)), Self::part(id, wanted, account, cents))
        };
        let (debit, credit) = match wanted.mode {
            Mode::TwoPhase => {
                (ask(from.0, "xa", &from.1, -wanted.cents), ask(to.0, "xa", &to.1, wanted.cents))
            }
            _ => (
                ask(from.0, "tcc/debit", &from.1, wanted.cents),
                ask(to.0, "tcc/credit", &to.1, wanted.cents),
            ),
        };
        if from.0 < to.0 { [debit, credit] } else { [credit, debit] }
    }

    /// A transaction by the SDK, with an xid of our own or without a call.
    async fn begun(&self, builder: TransactionBuilder, id: Uuid, wanted: &Wanted) -> Option<(Uuid, Told)> {
        let builder = builder.timeout(TIMEOUT);
        let builder = if wanted.own {
            self.ordered(id, wanted);
            builder.xid(Xid::new(id))
        } else {
            builder
        };
        let result = builder
            .run(async |tx: GlobalTransaction| {
                let id = tx.xid();
                if !wanted.own {
                    self.ordered(id.uuid(), wanted);
                }
                for (url, body) in self.asks(id, wanted) {
                    let answer = self.http.post(url).json(&body).send_in(&tx).await;
                    let answer = answer.map_err(|error| error.to_string())?;
                    if !answer.status().is_success() {
                        return Err(answer.text().await.unwrap_or_default());
                    }
                }
                Ok(id)
            })
            .await;
        match result {
            Ok(xid) => Some((xid.uuid(), Told::Committed)),
            Err(TransactionError::User { xid, .. } | TransactionError::Aborted { xid, .. }) => {
                Some((xid.uuid(), Told::Aborted))
            }
            Err(TransactionError::OutcomeUnknown { xid, .. }) => Some((xid.uuid(), Told::Unknown)),
            // It may have been begun, and ends by its deadline.
            Err(TransactionError::Begin(_)) => wanted.own.then_some((id, Told::Unknown)),
        }
    }

    /// A saga of four steps: money goes, comes and is held, a third bank says yes, and nothing is held any more.
    async fn saga(&self, sdk: &Client, id: Uuid, wanted: &Wanted) -> anyhow::Result<Told> {
        let (from, to) = (wanted.from.0, wanted.to.0);
        let third = self.third(wanted);
        let withdraw = Self::part(id, wanted, &wanted.from.1, wanted.cents);
        let deposit = Self::part(id, wanted, &wanted.to.1, wanted.cents);
        let saga = Saga::new("transfer")
            .xid(Xid::new(id))
            .timeout(SAGA_TIMEOUT)
            .step("withdraw")
            .action((from, "withdraw"))
            .compensate((from, "withdraw"))
            .payload(&withdraw)?
            .step("deposit")
            .action((to, "deposit"))
            .compensate((to, "deposit"))
            .payload(&deposit)?
            .step("approve")
            .action((third, "approve"))
            .pivot()
            .payload(&withdraw)?
            .step("open")
            .action((to, "open"))
            .forward_only()
            .payload(&deposit)?
            .wait_at_most(SAGA_TIMEOUT);
        Ok(match saga.run(sdk).await {
            Ok(_) => Told::Committed,
            Err(TransactionError::Aborted { .. }) => Told::Aborted,
            Err(_) => Told::Unknown,
        })
    }

    async fn saga_by_http(
        &self,
        id: Uuid,
        wanted: &Wanted,
        random: &mut fastrand::Rng,
    ) -> anyhow::Result<Told> {
        let (from, to, third) = (wanted.from.0, wanted.to.0, self.third(wanted));
        let withdraw = Self::part(id, wanted, &wanted.from.1, wanted.cents);
        let deposit = Self::part(id, wanted, &wanted.to.1, wanted.cents);
        let at = |bank: &str, operation: &str| json!({ "participant": bank, "operation": operation });
        let body = json!({
            "mode": "saga", "name": "transfer", "xid": id, "timeout_ms": SAGA_TIMEOUT.as_millis() as u64,
            "wait": "decided",
            "steps": [
                {"name": "withdraw", "action": at(from, "withdraw"), "compensate": at(from, "withdraw"),
                 "payload": withdraw},
                {"name": "deposit", "action": at(to, "deposit"), "compensate": at(to, "deposit"), "payload": deposit},
                {"name": "approve", "action": at(third, "approve"), "payload": withdraw, "role": "pivot"},
                {"name": "open", "action": at(to, "open"), "payload": deposit, "role": "forward_only"},
            ],
        });
        let answer = self.node(random, "", &body).await?;
        Ok(told_by(&answer.1))
    }

    /// Begin, two branches, commit: each call at whatever coordinator.
    async fn tcc_by_http(
        &self,
        id: Uuid,
        wanted: &Wanted,
        random: &mut fastrand::Rng,
    ) -> anyhow::Result<Told> {
        let timeout_ms = u64::try_from(TIMEOUT.as_millis())?;
        let body = json!({ "mode": "tcc", "name": "transfer", "xid": id, "timeout_ms": timeout_ms });
        let (status, answer) = self.node(random, "", &body).await?;
        anyhow::ensure!(status == 201, "{answer}");
        let mut votes = Vec::new();
        for (url, body) in self.asks(id, wanted) {
            let context = format!("{id};call={};timeout={timeout_ms}", Uuid::new_v4().simple());
            let answer = self.http.post(url).header("unanimity-xid", context).json(&body).send().await;
            let said = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
            if !said {
                let (_, answer) = self.node(random, &format!("/{id}/abort"), &json!({})).await?;
                return Ok(told_by(&answer));
            }
            let answer = answer?;
            let header = answer.headers().get("unanimity-votes").and_then(|value| value.to_str().ok());
            votes.extend(header.unwrap_or_default().split(',').filter(|key| !key.is_empty()).map(decoded));
        }
        let (_, answer) = self.node(random, &format!("/{id}/commit"), &json!({ "votes": votes })).await?;
        Ok(told_by(&answer))
    }

    /// A debit with a message: prepared at the coordinator, or in the bank's outbox.
    async fn message(&self, id: Uuid, wanted: &Wanted) -> anyhow::Result<Told> {
        let path = if wanted.mode == Mode::Message { "message" } else { "outbox" };
        let url = format!("{}/{path}", self.bank(wanted.from.0));
        let part = Self::part(id, wanted, &wanted.from.1, wanted.cents);
        let body = json!({ "part": part, "bank": wanted.to.0, "account": wanted.to.1 });
        crate::orders::told(self.http.post(url).json(&body)).await
    }

    fn third(&self, wanted: &Wanted) -> &'static str {
        let mut names = self.map.banks.iter().map(|(name, _)| *name);
        names.find(|name| *name != wanted.from.0 && *name != wanted.to.0).expect("there are three banks")
    }

    /// A call of a coordinator by HTTP.
    async fn node(
        &self,
        random: &mut fastrand::Rng,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<(u16, Value)> {
        let door = random.choice(&self.map.doors).expect("there are doors");
        let answer = self.http.post(format!("{door}/v1/transactions{path}")).json(body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }
}

/// The outcome in a coordinator's answer to a command: its status, or the true one of a refusal.
fn told_by(answer: &Value) -> Told {
    let is_error = answer["code"].is_string();
    let status = if is_error { &answer["transaction_status"] } else { &answer["status"] };
    match status.as_str() {
        Some("committed" | "committing") => Told::Committed,
        Some("aborted" | "aborting") => Told::Aborted,
        _ => Told::Unknown,
    }
}

/// A key as it stands in the header of votes.
fn decoded(text: &str) -> String {
    let mut bytes = text.trim().bytes();
    let mut key = Vec::new();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).unwrap_or(0);
        key.push(match byte {
            b'%' => u8::try_from(hex(bytes.next()) * 16 + hex(bytes.next())).unwrap_or(b'?'),
            other => other,
        });
    }
    String::from_utf8_lossy(&key).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded() {
        assert_eq!(decoded(" bank%2Fdebit%231@8c1f"), "bank/debit#1@8c1f");
    }

    #[test]
    fn an_error_tells_the_true_status() {
        let refused = json!({ "code": "already_decided", "status": 409, "transaction_status": "committed" });
        assert_eq!(told_by(&refused), Told::Committed);
        assert_eq!(told_by(&json!({ "code": "outcome_unknown", "status": 504 })), Told::Unknown);
        assert_eq!(told_by(&json!({ "status": "aborting" })), Told::Aborted);
    }
}
