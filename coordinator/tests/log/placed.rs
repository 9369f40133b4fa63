//! One log over two PostgreSQL databases (protocol H10): seals, moves to and fro, births, history in both places.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::log::{
    Appended, Block, BlockHeader, BlockKind, Error, HistoryFilter, HistoryRow, HistoryWatermark, NodeBeat,
    PlacedLog, PostgresLog, PostgresOptions, Seal, TransactionLog, migrate_postgres, migrate_postgres_server,
};
use unanimity_types::{Epoch, Seq, Status, Timestamp, Xid};
use uuid::Uuid;

use crate::history::{row, write};
use crate::postgres::Database;
use crate::subject::{P, after, fill};

/// A log with its home and one further server, `b`.
pub(crate) struct Two {
    pub(crate) home: Database,
    b: Database,
}

impl Two {
    pub(crate) async fn create() -> Self {
        let (home, b) = (Database::create().await, Database::create().await);
        migrate_postgres(&home.url, Some(4)).await.expect("migrate");
        let joined = migrate_postgres_server(&home.url, "b", &b.url).await.expect("migrate");
        assert!(joined.born);
        Self { home, b }
    }

    /// As a node opens it.
    pub(crate) async fn open(&self) -> PlacedLog {
        let servers = BTreeMap::from([("b".to_owned(), self.b.url.clone())]);
        PlacedLog::open(&self.home.url, servers, PostgresOptions::default()).await.expect("open")
    }

    async fn alone(&self, database: &Database) -> PostgresLog {
        PostgresLog::open(&database.url, PostgresOptions::default()).await.expect("open")
    }

    pub(crate) async fn remove(self) {
        self.home.remove().await;
        self.b.remove().await;
    }
}

fn seal(before: &Block, server: &str) -> Block {
    let header = BlockHeader {
        kind: BlockKind::Sealing,
        partition: before.partition,
        seq: before.seq.next(),
        epoch: before.epoch,
        floor: before.floor,
        time: before.time,
        previous: before.checksum,
    };
    let seal = Seal { server: server.to_owned(), operator: "ops".to_owned(), reason: "test".to_owned() };
    Block::new(header, seal.body(before.epoch))
}

async fn written(log: &dyn TransactionLog, block: &Block) {
    assert_eq!(log.append(block).await.expect("append"), Appended::Written, "{block:?}");
}

async fn conflicts(log: &dyn TransactionLog, block: &Block) {
    assert_eq!(log.append(block).await.expect("append"), Appended::Conflict, "{block:?}");
}

#[tokio::test]
async fn h10_nothing_follows_a_seal_but_where_it_says() {
    let two = Two::create().await;
    let log = two.open().await;
    let tip = fill(&log, 6, 3).await.pop().unwrap();
    let end = seal(&tip, "b");
    written(&log, &end).await;
    let home = two.alone(&two.home).await;
    // The sealing owner, a claimant that read the seal as the last block, and one that did not.
    conflicts(&home, &after(&end, BlockKind::Data, 1, 3, b"on")).await;
    conflicts(&home, &after(&end, BlockKind::Epoch, 2, 3, b"claim")).await;
    conflicts(&home, &after(&tip, BlockKind::Epoch, 2, 3, b"claim")).await;
    conflicts(&home, &after(&tip, BlockKind::Data, 1, 3, b"on")).await;
    // Before the log is there, nothing is there.
    let b = two.alone(&two.b).await;
    conflicts(&b, &after(&end, BlockKind::Epoch, 2, 3, b"claim")).await;
    log.follow_seal(&end).await.expect("moved");
    let here: Vec<u64> = log.read(P).await.unwrap().iter().map(|block| block.seq.0).collect();
    assert_eq!(here, [0, 1, 3, 4, 5, 6, 7], "birth, epochs, and from the floor to the seal");
    let claim = after(&end, BlockKind::Epoch, 2, 3, b"claim");
    written(&log, &claim).await;
    written(&log, &after(&claim, BlockKind::Data, 2, 3, b"goes on")).await;
    assert_eq!(b.tip(P).await.unwrap().seq, Seq(9));
    assert_eq!(home.tip(P).await.unwrap().seq, Seq(7), "the seal stays the end");
    conflicts(&home, &after(&end, BlockKind::Epoch, 2, 3, b"claim of one who knows no better")).await;
    for log in [home, b] {
        log.close().await;
    }
    log.close().await;
    two.remove().await;
}

/// Whoever takes over in the middle does it all again, also two at once, also long after.
#[tokio::test]
async fn h10_a_move_is_done_by_whoever_asks_and_never_twice() {
    let two = Two::create().await;
    let (one, other, late) = (two.open().await, two.open().await, two.open().await);
    // They know where it was.
    for log in [&one, &other, &late] {
        log.tip(P).await.unwrap();
    }
    let tip = fill(&one, 900, 200).await.pop().unwrap();
    let end = seal(&tip, "b");
    written(&one, &end).await;
    let (first, second) = tokio::join!(one.follow_seal(&end), other.follow_seal(&end));
    first.unwrap();
    second.unwrap();
    let claim = after(&end, BlockKind::Epoch, 2, 200, b"claim");
    written(&one, &claim).await;
    let data = after(&claim, BlockKind::Data, 2, 850, b"");
    written(&one, &data).await;
    assert!(one.trim(P, Seq(850)).await.unwrap() > 600);
    // It slept since it read the seal.
    late.follow_seal(&end).await.unwrap();
    let (mine, theirs) = (one.read(P).await.unwrap(), late.read(P).await.unwrap());
    assert_eq!(mine, theirs);
    assert_eq!(mine.last().unwrap().checksum, data.checksum);
    for log in [one, other, late] {
        log.close().await;
    }
    two.remove().await;
}

#[tokio::test]
async fn h10_to_and_fro_with_trims_and_a_stale_owner_on_each_server() {
    let two = Two::create().await;
    let log = two.open().await;
    let (home, b) = (two.alone(&two.home).await, two.alone(&two.b).await);
    let mut tip = fill(&log, 5, 0).await.pop().unwrap();
    let mut stale = vec![tip.clone()];
    for round in 0..6_u64 {
        let (to, epoch) = (if round % 2 == 0 { "b" } else { "home" }, round + 2);
        let end = seal(&tip, to);
        written(&log, &end).await;
        log.follow_seal(&end).await.expect("moved");
        stale.push(end.clone());
        let claim = after(&end, BlockKind::Epoch, epoch, end.floor.0, &epoch.to_be_bytes());
        written(&log, &claim).await;
        let data = after(&claim, BlockKind::Data, epoch, claim.seq.0, b"");
        written(&log, &data).await;
        log.trim(P, claim.seq).await.unwrap();
        for old in &stale {
            for server in [&home, &b] {
                let epoch = old.epoch.0;
                conflicts(server, &after(old, BlockKind::Data, epoch, old.floor.0, b"stale")).await;
                conflicts(server, &after(old, BlockKind::Epoch, epoch + 1, old.floor.0, b"late")).await;
            }
        }
        tip = data;
        let blocks = log.read(P).await.expect("whole");
        assert_eq!(blocks.last().unwrap().checksum, tip.checksum);
        stale.push(tip.clone());
        // The stale claims above were hints to nobody: the owner goes on.
        let next = after(&tip, BlockKind::Data, epoch, tip.floor.0, b"");
        written(&log, &next).await;
        tip = next;
    }
    for log in [home, b] {
        log.close().await;
    }
    log.close().await;
    two.remove().await;
}

#[tokio::test]
async fn h10_a_mover_that_slept_does_not_take_the_partition_back() {
    let two = Two::create().await;
    let log = two.open().await;
    let tip = fill(&log, 3, 0).await.pop().unwrap();
    let there = seal(&tip, "b");
    written(&log, &there).await;
    log.follow_seal(&there).await.unwrap();
    let claim = after(&there, BlockKind::Epoch, 2, 0, b"");
    written(&log, &claim).await;
    let back = seal(&claim, "home");
    written(&log, &back).await;
    log.follow_seal(&back).await.unwrap();
    // What was asked of the home database long ago arrives now: from home to b, by the first seal.
    two.home
        .run(&format!(
            "DO $$ BEGIN UPDATE partitions SET server = 'b', placed_seq = {0} \
             WHERE partition = 0 AND server = 'home' AND placed_seq < {0}; \
             IF FOUND THEN RAISE 'taken back'; END IF; END $$",
            there.seq
        ))
        .await;
    log.follow_seal(&there).await.unwrap();
    written(&log, &after(&back, BlockKind::Epoch, 3, 0, b"")).await;
    log.close().await;
    two.remove().await;
}

/// What another timeline left on the target would not fit to the copy, and behind the seal nobody could go on.
#[tokio::test]
async fn h10_a_target_with_rows_of_another_timeline_is_refused_before_the_seal() {
    let two = Two::create().await;
    let log = two.open().await;
    let tip = fill(&log, 6, 3).await.pop().unwrap();
    let end = seal(&tip, "b");
    written(&log, &end).await;
    log.follow_seal(&end).await.unwrap();
    let claim = after(&end, BlockKind::Epoch, 2, 3, b"claim");
    written(&log, &claim).await;
    let there = after(&claim, BlockKind::Data, 2, 3, b"there");
    written(&log, &there).await;
    // What is left of an earlier stay is no hindrance, trimmed or not.
    log.check_move(P, "home").await.expect("it can go back");
    two.home.run("DELETE FROM log_blocks WHERE partition = 0 AND kind = 2 AND seq < 3").await;
    log.check_move(P, "home").await.expect("it can go back");
    let back = seal(&there, "home");
    written(&log, &back).await;
    log.follow_seal(&back).await.unwrap();
    let claim = after(&back, BlockKind::Epoch, 3, 3, b"claim");
    written(&log, &claim).await;
    log.check_move(P, "b").await.expect("it can go there");
    let refused = async |log: &PlacedLog, word: &str| {
        let checked = log.check_move(P, "b").await;
        assert!(
            matches!(&checked, Err(Error::Refused(why)) if why.contains("another timeline")
            && why.contains(word) && why.contains("delete")),
            "{checked:?}"
        );
    };
    // The home is restored to a moment before the partition was on b, and goes on from there by itself.
    two.home.run("DELETE FROM log_blocks WHERE partition = 0 AND seq > 6").await;
    two.home.run("UPDATE partitions SET epoch = NULL, server = 'home', placed_seq = 0").await;
    let restored = two.open().await;
    refused(&restored, "block 7").await;
    written(&restored, &after(&tip, BlockKind::Epoch, 1_000_001, 3, b"restored")).await;
    refused(&restored, "block 7").await;
    assert_eq!(restored.tip(P).await.unwrap().seq, Seq(7), "nothing was sealed");
    // Its blocks are deleted, and its history is forgotten about.
    two.b.run("DELETE FROM log_blocks WHERE partition = 0").await;
    two.b
        .run("INSERT INTO history_watermarks VALUES (0, 2, 9) ON CONFLICT (partition) DO UPDATE SET seq = 9")
        .await;
    refused(&restored, "history").await;
    two.b.run("DELETE FROM history_watermarks WHERE partition = 0").await;
    restored.check_move(P, "b").await.expect("as on any other server");
    for log in [log, restored] {
        log.close().await;
    }
    two.remove().await;
}

/// H10: who is to serve it must know where it is.
#[tokio::test]
async fn h10_a_target_that_no_living_node_reaches_is_refused() {
    let two = Two::create().await;
    let log = two.open().await;
    let mut beat = NodeBeat {
        node: "a".to_owned(),
        instance: Uuid::new_v4(),
        joins: true,
        address: String::new(),
        version: "1".to_owned(),
        formats: 2,
        servers: Vec::new(),
        leaving: false,
    };
    let long = Duration::from_secs(60);
    log.heartbeat(&beat, long).await.unwrap();
    let checked = log.check_move(P, "b").await;
    assert!(matches!(&checked, Err(Error::Refused(why)) if why.contains("no node")), "{checked:?}");
    beat.servers = log.servers().await;
    assert_eq!(beat.servers, ["b"]);
    let view = log.heartbeat(&beat, long).await.unwrap();
    assert!(view.nodes[0].reaches("b") && view.nodes[0].reaches("home") && !view.nodes[0].reaches("c"));
    log.check_move(P, "b").await.expect("it can go there");
    log.close().await;
    two.remove().await;
}

#[tokio::test]
async fn h10_a_server_of_another_log_or_name_is_refused() {
    let two = Two::create().await;
    let refused = |found: Result<_, Error>, word: &str| match found {
        Err(error) => assert!(error.to_string().contains(word), "{error}"),
        Ok(_) => panic!("taken, and {word} expected"),
    };
    refused(migrate_postgres_server(&two.home.url, "c", &two.b.url).await, "\"b\"");
    refused(migrate_postgres_server(&two.home.url, "c", &two.home.url).await, "\"home\"");
    refused(migrate_postgres_server(&two.b.url, "c", &two.home.url).await, "\"b\"");
    refused(migrate_postgres(&two.b.url, None).await, "\"b\"");
    let again = migrate_postgres_server(&two.home.url, "b", &two.b.url).await.unwrap();
    assert!(!again.born && again.applied == 0);
    let strangers = Two::create().await;
    refused(migrate_postgres_server(&two.home.url, "c", &strangers.b.url).await, "another log");

    let tip = fill(&two.open().await, 2, 0).await.pop().unwrap();
    for (name, url, word) in
        [("b", &strangers.b.url, "another log"), ("b", &two.home.url, "\"home\""), ("c", &two.b.url, "\"b\"")]
    {
        let servers = BTreeMap::from([(name.to_owned(), url.clone())]);
        let log = PlacedLog::open(&two.home.url, servers, PostgresOptions::default()).await.unwrap();
        let checked = log.check_move(P, name).await;
        assert!(matches!(&checked, Err(Error::Refused(why)) if why.contains(word)), "{checked:?}");
        log.close().await;
    }
    let log = two.open().await;
    for (name, word) in [("home", "already"), ("nowhere", "database.servers")] {
        let checked = log.check_move(P, name).await;
        assert!(matches!(&checked, Err(Error::Refused(why)) if why.contains(word)), "{checked:?}");
    }
    log.check_move(P, "b").await.expect("it can go there");
    two.home.run("DELETE FROM log_servers").await;
    let checked = log.check_move(P, "b").await;
    assert!(matches!(&checked, Err(Error::Refused(why)) if why.contains("migrate")), "{checked:?}");
    let opened = PlacedLog::open(&two.b.url, BTreeMap::new(), PostgresOptions::default()).await;
    assert!(matches!(opened, Err(Error::Refused(_))), "{opened:?}");
    written(&log, &after(&tip, BlockKind::Data, 1, 0, b"")).await;
    log.close().await;
    strangers.remove().await;
    two.remove().await;
}

#[tokio::test]
async fn h10_a_node_that_does_not_know_the_server_takes_no_lease() {
    let two = Two::create().await;
    let log = two.open().await;
    let tip = fill(&log, 2, 0).await.pop().unwrap();
    let end = seal(&tip, "b");
    written(&log, &end).await;
    log.follow_seal(&end).await.unwrap();
    let blind = PlacedLog::open(&two.home.url, BTreeMap::new(), PostgresOptions::default()).await.unwrap();
    let long = Duration::from_secs(60);
    let lease = blind.lease(P, "blind", "x", long).await;
    assert!(matches!(&lease, Err(Error::Refused(why)) if why.contains("\"b\"")), "{lease:?}");
    assert!(blind.warnings().await.unwrap().iter().any(|warning| warning.contains("\"b\"")));
    assert!(log.lease(P, "sees", "x", long).await.unwrap().held, "nothing is in the way");
    assert!(blind.lease(unanimity_types::PartitionId(1), "blind", "x", long).await.unwrap().held);
    for log in [blind, log] {
        log.close().await;
    }
    two.remove().await;
}

fn xid(number: u128) -> Xid {
    // The first of the slots' partitions, whatever the rest.
    (number..)
        .map(|n| Xid::new(Uuid::from_u128(n)))
        .find(|x| unanimity_types::partition_of(*x, 4) == P)
        .unwrap()
}

#[tokio::test]
async fn h10_history_is_found_on_every_server_that_held_the_partition() {
    let two = Two::create().await;
    let log: Arc<dyn TransactionLog> = Arc::new(two.open().await);
    let (over, open) = (xid(1 << 90), xid(2 << 90));
    let tip = fill(&*log, 4, 0).await.pop().unwrap();
    let finished = HistoryRow { xid: over, ..row(1, Status::Committed) };
    let mut active = HistoryRow { xid: open, ..row(2, Status::Active) };
    write(&*log, vec![finished.clone(), active.clone()], 1, 4).await;
    let end = seal(&tip, "b");
    written(&*log, &end).await;
    log.follow_seal(&end).await.unwrap();
    assert_eq!(log.history_watermark(P).await.unwrap(), HistoryWatermark { epoch: Epoch(1), seq: Seq(4) });
    let found = log.find_history(&[over, open]).await.unwrap();
    assert_eq!(
        found.iter().map(|row| row.xid).collect::<Vec<_>>(),
        [over],
        "what is open is told where it is"
    );
    // A leftover of a cleaning that failed counts for nothing.
    let home = two.alone(&two.home).await;
    write(&home, vec![active.clone()], 1, 4).await;
    assert!(log.find_history(&[open]).await.unwrap().is_empty());
    active.epoch = Epoch(2);
    write(&*log, vec![active.clone()], 2, 9).await;
    let page = log.list_history(&HistoryFilter { limit: 10, ..HistoryFilter::default() }).await.unwrap();
    let mut listed: Vec<Xid> = page.rows.iter().map(|row| row.xid).collect();
    listed.sort_unstable();
    let mut expected = [over, open];
    expected.sort_unstable();
    assert_eq!(listed, expected);
    assert_eq!(log.find_history(&[open]).await.unwrap()[0].epoch, Epoch(2));
    for server in [&two.home, &two.b] {
        server.run("UPDATE history_retention SET floor_ms = 7").await;
        assert_eq!(log.history_floor(P).await.unwrap(), Timestamp(7), "the highest of both");
    }
    log.keep_history(Duration::from_secs(40 * 24 * 3_600)).await.expect("order on both");
    home.close().await;
    log.close().await;
    two.remove().await;
}
