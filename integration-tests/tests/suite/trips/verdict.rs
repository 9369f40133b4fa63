//! What must be true when the dust has settled, judged from what the customers heard, from plain SQL on the databases
//! and from the coordinator's own answers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::coordinator::log_verify;
use integration_tests::wait::until;
use serde_json::json;
use uuid::Uuid;

use super::Stack;
use super::customers::{Customers, Heard, Told};
use super::services::Service;
use super::traces::{self, STEPS, Traces};

/// How long the rest may take once everything works again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a coordinator may take to stop in good order.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Problems that are spelled out.
const PROBLEMS_MAX: usize = 20;

pub(super) struct Verdict {
    pub(super) counts: String,
    pub(super) settled_in: Duration,
    /// Trips of which something was booked and given back.
    pub(super) compensated: usize,
    /// Trips whose compensation was refused, and which were mended by hand.
    pub(super) mended: usize,
    /// Steps that were asked for more than once.
    pub(super) asked_again: usize,
    pub(super) problems: Vec<String>,
}

/// What the coordinator says of a trip.
#[derive(Debug, Clone, Default)]
struct Known {
    status: String,
    is_finished: bool,
    /// Status and attempts, by the step's name; none for an abort of what had not begun.
    steps: BTreeMap<String, (String, u64)>,
}

pub(super) async fn reach(stack: &mut Stack, customers: &Customers) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    let mended = mend(stack).await?;
    until("everything is settled", SETTLE_LIMIT, async || settled(stack).await).await?;
    let settled_in = started.elapsed();

    // Who has not heard an outcome asks again: now somebody must know.
    let unknown: Vec<Uuid> = customers
        .all()
        .into_iter()
        .filter(|(_, heard)| heard.has(Told::Unknown))
        .map(|(xid, _)| xid)
        .collect();
    for xid in &unknown {
        let told = customers.ask_agency(*xid).await;
        if told == Told::Unknown {
            // Never submitted, as far as anybody knows; from now on it never can be.
            let told = customers.cancel(*xid).await;
            ensure!(told != Told::Unknown, "the outcome of {xid} is unknown: {:?}", customers.all().get(xid));
        }
        let told = customers.ask_coordinator(*xid).await;
        ensure!(told != Told::Unknown, "the coordinator does not know the outcome of {xid}");
    }
    // The cancellations of the last loop are transactions too.
    until("the last cancellations are settled", SETTLE_LIMIT, async || settled(stack).await).await?;

    let heard = customers.all();
    let known = ask_all(stack, heard.keys()).await?;
    let traces = traces::read(stack).await?;
    let mut problems = stories(&heard, &traces, &known);
    problems.extend(traces::sums(stack).await?);
    problems.truncate(PROBLEMS_MAX);
    stack.coordinator.process.terminate()?;
    let exit = stack.coordinator.process.exit(STOP_LIMIT).await?;
    ensure!(exit.success(), "the coordinator ended with {exit}");
    let (code, verified) = log_verify(&stack.coordinator_db_url).await?;
    if code != Some(0) || verified["ok"] != true {
        problems.push(format!("log verify: {verified}"));
    }

    let count = |is_so: &dyn Fn(&Traces) -> bool| traces.values().filter(|traces| is_so(traces)).count();
    let complete = count(&|traces| traces.ticket.is_some());
    let compensated = count(&|traces| STEPS.iter().any(|step| traces.of_step(step) == Some("cancelled")));
    let steps = || known.values().flat_map(|known| known.steps.values());
    let asked_again = steps().filter(|(_, attempts)| *attempts > 1).count();
    let never_ran = never_ran(&traces, &known);
    let counts = format!(
        "trips {}, complete {complete}, compensated {compensated}, nothing booked {}, mended by hand {mended}, \
         at first unknown {}, steps asked for again {asked_again}, compensated without having run {never_ran}",
        heard.len(),
        heard.len() - complete - compensated,
        unknown.len(),
    );
    Ok(Verdict { counts, settled_in, compensated, mended, asked_again, problems })
}

/// An operator's work: the hotel's manager takes the cancellations, and what is parked is tried again.
async fn mend(stack: &Stack) -> anyhow::Result<usize> {
    let http = integration_tests::wait::http_client(Duration::from_secs(10))?;
    // What is still turning back reaches the hotel first.
    until("only what is parked is open", SETTLE_LIMIT, async || {
        for status in ["active", "preparing", "committing"] {
            let open = stack.coordinator.list(status).await?;
            ensure!(open.is_empty(), "{} trips are {status}, {:?} for one", open.len(), open.first());
        }
        for xid in stack.coordinator.list("aborting").await? {
            ensure!(is_parked(stack, &xid).await?, "{xid} turns back and is not parked");
        }
        Ok(())
    })
    .await?;
    let url = stack.services.url(Service::Hotels);
    let url = format!("{url}/hotels/castle/take-cancellations");
    http.post(url).send().await?.error_for_status()?;
    let mut mended = BTreeSet::new();
    // The list has pages.
    loop {
        let open = stack.coordinator.list("aborting").await?;
        let parked: Vec<String> = open.into_iter().filter(|xid| !mended.contains(xid)).collect();
        if parked.is_empty() {
            return Ok(mended.len());
        }
        for xid in parked {
            let by = json!({"operator": "test", "reason": "the castle takes cancellations now"});
            let (status, answer) =
                stack.coordinator.post(&format!("/v1/transactions/{xid}/retry"), &by).await?;
            ensure!(status == 200, "the retry of {xid}: {status}: {answer}");
            mended.insert(xid);
        }
        until("the mended are settled", SETTLE_LIMIT, async || {
            let open = stack.coordinator.list("aborting").await?;
            ensure!(open.iter().all(|xid| !mended.contains(xid)), "{} trips turn back", open.len());
            Ok(())
        })
        .await?;
    }
}

async fn is_parked(stack: &Stack, xid: &str) -> anyhow::Result<bool> {
    let (_, trip) = stack.coordinator.get(&format!("/v1/transactions/{xid}")).await?;
    let steps = trip["branches"].as_array().context("no steps")?;
    Ok(steps.iter().any(|step| step["parked"] == true))
}

/// Nothing is open at the coordinator.
async fn settled(stack: &Stack) -> anyhow::Result<()> {
    for status in ["active", "preparing", "committing", "aborting"] {
        let open = stack.coordinator.list(status).await?;
        ensure!(open.is_empty(), "{} trips are {status}, {:?} for one", open.len(), open.first());
    }
    Ok(())
}

async fn ask_all(stack: &Stack, xids: impl Iterator<Item = &Uuid>) -> anyhow::Result<HashMap<String, Known>> {
    let mut all = HashMap::new();
    for xid in xids {
        let (status, trip) = stack.coordinator.get(&format!("/v1/transactions/{xid}")).await?;
        ensure!(status == 200, "{xid}: {status}: {trip}");
        let steps = trip["branches"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let steps = steps.map(|step| {
            let word = |what: &str| step[what].as_str().unwrap_or_default().to_owned();
            (word("key"), (word("status"), step["attempts"].as_u64().unwrap_or_default()))
        });
        let known = Known {
            status: trip["status"].as_str().unwrap_or_default().to_owned(),
            is_finished: trip["finished_at"].is_string(),
            steps: steps.collect(),
        };
        all.insert(xid.to_string(), known);
    }
    Ok(all)
}

/// How many steps were compensated that had not run: their outcome was unknown, and it was "no".
fn never_ran(traces: &BTreeMap<String, Traces>, known: &HashMap<String, Known>) -> usize {
    let nothing = Traces::default();
    let of_trip = |(xid, known): (&String, &Known)| {
        let traces = traces.get(xid).unwrap_or(&nothing);
        let compensated = known.steps.iter().filter(|(_, (status, _))| status == "compensated");
        compensated.filter(|(step, _)| traces.of_step(step).is_none()).count()
    };
    known.iter().map(of_trip).sum()
}

/// Every trip's story: its customer, the four databases and the coordinator agree.
fn stories(
    heard: &HashMap<Uuid, Heard>,
    traces: &BTreeMap<String, Traces>,
    known: &HashMap<String, Known>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let (nothing, nobody) = (Traces::default(), Known::default());
    for (xid, heard) in heard {
        let xid = xid.to_string();
        let traces = traces.get(&xid).unwrap_or(&nothing);
        let known = known.get(&xid).unwrap_or(&nobody);
        for what in judge(heard, traces, known) {
            problems.push(format!("trip {xid}: {what}: {heard:?}, {traces:?}, {known:?}"));
        }
    }
    let strangers = traces.keys().filter(|xid| !xid.parse().is_ok_and(|xid| heard.contains_key(&xid)));
    problems.extend(strangers.map(|xid| format!("nobody wanted the trip {xid}")));
    problems
}

fn judge(heard: &Heard, traces: &Traces, known: &Known) -> Vec<&'static str> {
    let booked = match traces.outcome() {
        Ok(booked) => booked,
        Err(why) => return vec![why],
    };
    let mut problems = Vec::new();
    if heard.has(Told::Booked) && heard.has(Told::TurnedBack) {
        problems.push("its customer heard two outcomes");
    }
    if heard.has(if booked.is_some() { Told::TurnedBack } else { Told::Booked }) {
        problems.push("its customer heard something else than what is");
    }
    if !heard.has(Told::Booked) && !heard.has(Told::TurnedBack) {
        problems.push("its customer never heard");
    }
    if heard.booked.iter().any(|told| Some(*told) != booked) {
        problems.push("its customer was told another seat, room or car");
    }
    if !known.is_finished || known.status != if booked.is_some() { "committed" } else { "aborted" } {
        problems.push("the coordinator says something else");
    }
    for (step, (status, _)) in &known.steps {
        let left = traces.of_step(step);
        let fits = match status.as_str() {
            "done" => left == Some("booked"),
            // Of what had not run there is no trace.
            "compensated" => matches!(left, None | Some("cancelled")),
            "refused" | "skipped" => left.is_none(),
            _ => false,
        };
        if !fits {
            problems.push("a step is not as the coordinator says");
        }
    }
    problems
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Traces {
        let word = str::to_owned;
        Traces {
            ordered: Some((word("ada"), word("LIS"), word("garden"), word("van"), 5)),
            booking: Some((word("booked"), word("LIS"), 1, word("ada"))),
            stay: Some((word("booked"), word("garden"), 2, word("ada"), word("LIS"), 1)),
            rental: Some((word("booked"), word("van"), 3, word("ada"))),
            charge: Some((word("ada"), 5)),
            ticket: Some((word("LIS"), 1, 2, 3, word("ada"))),
        }
    }

    /// Turned back by the charge's refusal.
    fn undone() -> Traces {
        let mut traces = Traces { charge: None, ticket: None, ..complete() };
        traces.booking.as_mut().unwrap().0 = "cancelled".to_owned();
        traces.stay.as_mut().unwrap().0 = "cancelled".to_owned();
        traces.rental.as_mut().unwrap().0 = "cancelled".to_owned();
        traces
    }

    fn known(status: &str, steps: [&str; 5]) -> Known {
        let steps =
            STEPS.iter().zip(steps).map(|(step, status)| ((*step).to_owned(), (status.to_owned(), 1)));
        Known { status: status.to_owned(), is_finished: true, steps: steps.collect() }
    }

    fn done() -> Known {
        known("committed", ["done"; 5])
    }

    fn turned() -> Known {
        known("aborted", ["compensated", "compensated", "compensated", "refused", "skipped"])
    }

    fn heard(told: &[Told], booked: &[(i64, i64, i64)]) -> Heard {
        Heard { told: told.iter().map(|told| ("somebody", *told)).collect(), booked: booked.to_vec() }
    }

    #[test]
    fn one_story_is_fine() {
        let booked = heard(&[Told::Unknown, Told::Booked], &[(1, 2, 3)]);
        assert!(judge(&booked, &complete(), &done()).is_empty());
        assert!(judge(&heard(&[Told::TurnedBack], &[]), &undone(), &turned()).is_empty());
        let cancelled = Known { status: "aborted".to_owned(), is_finished: true, ..Known::default() };
        assert!(judge(&heard(&[Told::TurnedBack], &[]), &Traces::default(), &cancelled).is_empty());
        // Compensated without having run.
        let traces = Traces { rental: None, ..undone() };
        assert!(judge(&heard(&[Told::TurnedBack], &[]), &traces, &turned()).is_empty());
    }

    #[test]
    fn two_stories_are_not() {
        let booked = heard(&[Told::Booked], &[]);
        let turned_back = heard(&[Told::TurnedBack], &[]);
        let other_seat = {
            let mut traces = complete();
            traces.stay.as_mut().unwrap().5 = 9;
            traces
        };
        let other_ticket = {
            let mut traces = complete();
            traces.ticket.as_mut().unwrap().2 = 9;
            traces
        };
        let half = Traces { stay: undone().stay, ..complete() };
        let paid = Traces { charge: complete().charge, ..undone() };
        let left = Traces { rental: complete().rental, ..undone() };
        let stray = {
            let mut traces = complete();
            traces.rental.as_mut().unwrap().3 = "ben".to_owned();
            traces
        };
        for (heard, traces, known, what) in [
            (&heard(&[Told::Booked, Told::TurnedBack], &[]), &complete(), done(), "two outcomes"),
            (&turned_back, &complete(), done(), "something else than what is"),
            (&booked, &undone(), turned(), "something else than what is"),
            (&heard(&[Told::Unknown], &[]), &complete(), done(), "never heard"),
            (&heard(&[Told::Booked], &[(9, 2, 3)]), &complete(), done(), "another seat"),
            (&booked, &complete(), turned(), "the coordinator says"),
            (&booked, &complete(), Known { is_finished: false, ..done() }, "the coordinator says"),
            (&turned_back, &undone(), known("aborted", ["done"; 5]), "a step is not"),
            (&booked, &other_seat, done(), "another seat than was booked"),
            (&booked, &other_ticket, done(), "its ticket"),
            (&booked, &half, done(), "neither complete"),
            (&turned_back, &paid, turned(), "neither complete"),
            (&turned_back, &left, turned(), "neither complete"),
            (&booked, &stray, done(), "not of the same trip"),
        ] {
            let problems = judge(heard, traces, &known);
            assert!(problems.iter().any(|problem| problem.contains(what)), "{what}: {problems:?}");
        }
    }

    #[test]
    fn a_trip_that_nobody_wanted_is_found() {
        let traces = BTreeMap::from([(Uuid::new_v4().to_string(), Traces::default())]);
        assert_eq!(stories(&HashMap::new(), &traces, &HashMap::new()).len(), 1);
    }
}
