//! Nodes: who lives by the database's clock, who bears a name, and the format that all of them know.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::log::{ClusterView, Error, HOME_SERVER, NodeBeat, NodeRow};
use unanimity_types::{PartitionId, Seq};
use uuid::Uuid;

use crate::subject::{Kind, P, Subject};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn beat(node: &str, formats: u32) -> NodeBeat {
    NodeBeat {
        node: node.to_owned(),
        instance: Uuid::new_v4(),
        joins: true,
        address: format!("http://{node}:7460"),
        version: "1.2.3".to_owned(),
        formats,
        servers: Vec::new(),
        leaving: false,
    }
}

fn node<'a>(view: &'a ClusterView, name: &str) -> &'a NodeRow {
    view.nodes.iter().find(|node| node.node == name).expect(name)
}

async fn pass(subject: &Subject, time: Duration) {
    match &subject.kind {
        Kind::Memory(memory) => memory.advance(time),
        Kind::Sqlite(_) | Kind::Postgres(_) | Kind::Placed(..) => {
            tokio::time::sleep(time + Duration::from_millis(100)).await;
        }
    }
}

pub(crate) async fn a_node_lives_as_long_as_it_said_by_the_logs_clock(subject: &Subject) {
    let log = &subject.log;
    let (mut a, b) = (beat("a", 2), beat("b", 2));
    let alone = log.heartbeat(&a, LONG).await.unwrap();
    assert_eq!(alone.nodes.len(), 1);
    a.joins = false;
    log.heartbeat(&b, SHORT).await.unwrap();
    let both = log.heartbeat(&a, LONG).await.unwrap();
    let row = node(&both, "b");
    assert!(row.alive && row.remaining <= SHORT && !row.draining && !row.leaving, "{row:?}");
    assert_eq!((row.address.as_str(), row.version.as_str(), row.formats), ("http://b:7460", "1.2.3", 2));
    pass(subject, SHORT).await;
    let later = log.heartbeat(&a, LONG).await.unwrap();
    let row = node(&later, "b");
    assert!(!row.alive && row.remaining.is_zero() && row.silent_for >= SHORT, "{row:?}");
    assert!(node(&later, "a").alive && node(&later, "a").remaining > Duration::from_secs(30));
    // Who goes says so, and is not waited for.
    a.leaving = true;
    let gone = log.heartbeat(&a, Duration::ZERO).await.unwrap();
    assert!(!node(&gone, "a").alive && node(&gone, "a").leaving);
}

pub(crate) async fn a_view_shows_every_partition_and_its_owner(subject: &Subject) {
    let log = &subject.log;
    log.lease(PartitionId(1), "b", "http://b", LONG).await.unwrap();
    log.lease(PartitionId(2), "b", "http://b", SHORT).await.unwrap();
    pass(subject, SHORT).await;
    let view = log.heartbeat(&beat("a", 2), LONG).await.unwrap();
    let numbers: Vec<u16> = view.partitions.iter().map(|row| row.partition.0).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    let server = if matches!(subject.kind, Kind::Placed(..)) { "b" } else { HOME_SERVER };
    assert!(view.partitions.iter().all(|row| row.server == server));
    let [free, held, over, _] = &view.partitions[..] else { panic!("{view:?}") };
    assert_eq!((free.owner.as_deref(), free.remaining), (None, Duration::ZERO));
    assert_eq!((held.owner.as_deref(), held.address.as_deref()), (Some("b"), Some("http://b")));
    assert!(held.remaining > Duration::from_secs(30) && held.remaining <= LONG, "{held:?}");
    assert_eq!((over.owner.as_deref(), over.remaining), (Some("b"), Duration::ZERO));
}

pub(crate) async fn a_lease_is_handed_to_one_node_and_to_no_other(subject: &Subject) {
    let log = &subject.log;
    assert!(log.lease(P, "a", "http://a", LONG).await.unwrap().held);
    assert!(!log.hand_over(P, "b", "b", "http://b", LONG).await.unwrap(), "it is not b's to give");
    assert!(log.hand_over(P, "a", "b", "http://b", LONG).await.unwrap());
    let other = log.lease(P, "c", "http://c", LONG).await.unwrap();
    assert_eq!((other.held, other.owner.as_str(), other.address.as_str()), (false, "b", "http://b"));
    assert!(!log.lease(P, "a", "http://a", LONG).await.unwrap().held, "it was given away");
    assert!(log.lease(P, "b", "http://b", LONG).await.unwrap().held);
    // An heir that never comes does not keep it.
    assert!(log.hand_over(P, "b", "nobody", "http://nobody", SHORT).await.unwrap());
    pass(subject, SHORT).await;
    assert!(log.lease(P, "a", "http://a", LONG).await.unwrap().held);
    assert!(!log.hand_over(PartitionId(99), "a", "b", "x", LONG).await.unwrap());
}

pub(crate) async fn draining_stays_until_it_is_taken_back(subject: &Subject) {
    let log = &subject.log;
    assert!(!log.set_draining("a", true).await.unwrap(), "nobody bears that name");
    let mut a = beat("a", 2);
    log.heartbeat(&a, LONG).await.unwrap();
    assert!(log.set_draining("a", true).await.unwrap());
    a.joins = false;
    assert!(node(&log.heartbeat(&a, LONG).await.unwrap(), "a").draining);
    // Also over a restart: whoever drained it says when it is over.
    assert!(node(&log.heartbeat(&beat("a", 2), LONG).await.unwrap(), "a").draining);
    assert!(log.set_draining("a", false).await.unwrap());
    assert!(!node(&log.heartbeat(&beat("a", 2), LONG).await.unwrap(), "a").draining);
}

pub(crate) async fn two_processes_of_one_name_and_the_later_one_bears_it(subject: &Subject) {
    let log = &subject.log;
    let (mut first, mut second) = (beat("a", 2), beat("a", 2));
    log.heartbeat(&first, LONG).await.unwrap();
    log.heartbeat(&second, LONG).await.unwrap();
    (first.joins, second.joins) = (false, false);
    for _ in 0..2 {
        let refused = log.heartbeat(&first, LONG).await;
        assert!(matches!(&refused, Err(Error::InUse(why)) if why.contains("\"a\"")), "{refused:?}");
        let view = log.heartbeat(&second, LONG).await.unwrap();
        assert_eq!(view.nodes.len(), 1);
    }
    // A name whose bearer falls silent is free again: the second one may be from before a failover that lost the
    // first one's joining.
    log.heartbeat(&second, SHORT).await.unwrap();
    pass(subject, SHORT).await;
    assert!(node(&log.heartbeat(&first, LONG).await.unwrap(), "a").alive);
    assert!(matches!(log.heartbeat(&second, LONG).await, Err(Error::InUse(_))));
}

pub(crate) async fn m18_the_agreed_format_only_grows_and_refuses_who_knows_less(subject: &Subject) {
    let log = &subject.log;
    let (mut old, mut new) = (beat("old", 1), beat("new", 3));
    // Whoever is let in by that can read what is there already: also the births.
    assert_eq!(log.heartbeat(&old, SHORT).await.unwrap().format, 1);
    for partition in (0..4).map(PartitionId) {
        let birth = log.block_at(partition, Seq(0)).await.unwrap().unwrap();
        assert_eq!(birth.version, 1, "{birth:?}");
    }
    assert_eq!(log.heartbeat(&new, LONG).await.unwrap().format, 1, "as long as one knows only that");
    (old.joins, new.joins) = (false, false);
    assert_eq!(log.heartbeat(&beat("newer", 4), SHORT).await.unwrap().format, 1);
    pass(subject, SHORT).await;
    assert_eq!(log.heartbeat(&new, LONG).await.unwrap().format, 3, "who lives knows that much");
    for late in [old, beat("old", 2)] {
        let refused = log.heartbeat(&late, LONG).await;
        assert!(matches!(&refused, Err(Error::Schema(why)) if why.contains("block format 3")), "{refused:?}");
    }
    // The refusal left no trace, and the format does not sink when only the better ones are left.
    let view = log.heartbeat(&beat("newest", 5), LONG).await.unwrap();
    assert_eq!((view.format, view.nodes.iter().any(|node| node.node == "old" && node.alive)), (3, false));
}

pub(crate) async fn m18_who_joins_and_who_raises_do_not_miss_one_another(subject: &Subject) {
    for round in 0..8 {
        let log = &subject.log;
        let before = 10 + 2 * round;
        assert_eq!(log.heartbeat(&beat("watch", before), LONG).await.unwrap().format, before);
        log.heartbeat(&NodeBeat { leaving: true, ..beat("watch", before) }, Duration::ZERO).await.unwrap();
        let (less, more) = (beat("less", before), beat("more", before + 1));
        let tasks = [less, more].map(|beat| {
            let log = Arc::clone(&subject.log);
            tokio::spawn(async move { log.heartbeat(&beat, LONG).await })
        });
        let [less, more] = tasks;
        let (less, more) = (less.await.unwrap(), more.await.unwrap());
        let raised = more.unwrap().format > before;
        assert_ne!(raised, less.is_ok(), "round {round}: raised while one that knows less lives");
        for name in ["less", "more"] {
            let gone = NodeBeat { leaving: true, ..beat(name, 100) };
            log.heartbeat(&gone, Duration::ZERO).await.unwrap();
        }
    }
}
