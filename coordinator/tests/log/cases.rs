//! What every log does, case by case.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unanimity_coordinator::log::{Appended, BLOCK_BYTES_MAX, Block, BlockHeader, BlockKind, Error};
use unanimity_types::{Epoch, LogId, PartitionId, Seq};
use uuid::Uuid;

use crate::subject::{Kind, P, Subject, after, fill};

async fn damaged_at(subject: &Subject) -> u64 {
    match subject.log.read(P).await {
        Err(Error::Damaged { partition: P, seq, .. }) => seq.0,
        other => panic!("expected damage, got {other:?}"),
    }
}

pub(crate) async fn c4_the_same_block_offered_again_is_already_there(subject: &Subject) {
    let blocks = fill(&*subject.log, 3, 0).await;
    for block in &blocks[1..] {
        assert_eq!(subject.log.append(block).await.unwrap(), Appended::AlreadyThere);
    }
    let rival = after(&blocks[2], BlockKind::Data, 1, 0, b"rival");
    assert_eq!(subject.log.append(&rival).await.unwrap(), Appended::Conflict);
    let orphan = after(&rival, BlockKind::Data, 1, 0, b"orphan");
    assert_eq!(subject.log.append(&orphan).await.unwrap(), Appended::Conflict);
    assert_eq!(subject.log.read(P).await.unwrap(), blocks);
}

pub(crate) async fn c7_trim_keeps_birth_and_epoch_blocks_so_that_a_stale_append_hits_a_key(
    subject: &Subject,
) {
    let log = &subject.log;
    // A: blocks 1 to 10. B: epoch block 11, data to 20, floor 20, trimmed.
    let blocks = fill(&**log, 10, 0).await;
    let mut tip = after(&blocks[10], BlockKind::Epoch, 2, 0, b"B");
    assert_eq!(log.append(&tip).await.unwrap(), Appended::Written);
    for seq in 12..=20 {
        tip = after(&tip, BlockKind::Data, 2, if seq == 20 { 20 } else { 0 }, b"");
        assert_eq!(log.append(&tip).await.unwrap(), Appended::Written);
    }
    assert_eq!(log.trim(P, Seq(20)).await.unwrap(), 17, "2 to 10 and 12 to 19");
    assert_eq!(log.block_at(P, Seq(10)).await.unwrap(), None);
    for kept in [0, 1, 11, 20] {
        assert!(log.block_at(P, Seq(kept)).await.unwrap().is_some(), "block {kept}");
    }
    let stale = after(&blocks[10], BlockKind::Data, 1, 0, b"stale");
    assert_eq!(log.append(&stale).await.unwrap(), Appended::Conflict);
    let seqs: Vec<u64> = log.read(P).await.unwrap().iter().map(|block| block.seq.0).collect();
    assert_eq!(seqs, [0, 1, 11, 20]);
}

pub(crate) async fn c8_a_birth_block_of_another_log_is_found(subject: &Subject) {
    let birth = subject.log.read(P).await.unwrap().remove(0);
    assert_eq!(birth.body.as_ref(), subject.log.identity().log_id.0.as_bytes());
    let other = Block::birth(P, LogId(Uuid::from_u128(1)), birth.time);
    match &subject.kind {
        Kind::Memory(log) => assert!(log.damage(P, Seq(0), |block| *block = other)),
        Kind::Sqlite(_) | Kind::Postgres(_) | Kind::Placed(..) => {
            let prefix = if matches!(subject.kind, Kind::Sqlite(_)) { "x'" } else { "'\\x" };
            let body = "00000000000000000000000000000001";
            subject
                .sql(&format!(
                    "UPDATE log_blocks SET body = {prefix}{body}', checksum = {prefix}{}' \
                     WHERE partition = 0 AND seq = 0",
                    other.checksum
                ))
                .await;
        }
    }
    assert_eq!(damaged_at(subject).await, 0);
}

pub(crate) async fn h16_what_cannot_be_stored_is_refused_and_changes_nothing(subject: &Subject) {
    let blocks = fill(&*subject.log, 1, 0).await;
    let header = |partition: u16, seq: u64, floor: u64, epoch: u64| BlockHeader {
        kind: BlockKind::Data,
        partition: PartitionId(partition),
        seq: Seq(seq),
        epoch: Epoch(epoch),
        floor: Seq(floor),
        time: blocks[1].time,
        previous: blocks[1].checksum,
    };
    let too_large = bytes::Bytes::from(vec![0; BLOCK_BYTES_MAX]);
    let mut birth = header(0, 2, 0, 1);
    birth.kind = BlockKind::Birth;
    for block in [
        Block::new(header(0, 2, 0, 1), too_large),
        Block::new(header(4, 2, 0, 1), bytes::Bytes::new()),
        Block::new(header(0, 2, 3, 1), bytes::Bytes::new()),
        Block::new(header(0, 2, 0, u64::MAX), bytes::Bytes::new()),
        Block::new(birth, bytes::Bytes::new()),
    ] {
        let refused = subject.log.append(&block).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    assert_eq!(subject.log.read(P).await.unwrap(), blocks);
    let fine = after(&blocks[1], BlockKind::Data, 1, 0, &vec![7; 3 << 20]);
    assert_eq!(subject.log.append(&fine).await.unwrap(), Appended::Written);
    assert_eq!(subject.log.read(P).await.unwrap()[2], fine);
}

pub(crate) async fn h17_a_damaged_block_is_found(subject: &Subject) {
    fill(&*subject.log, 6, 0).await;
    subject.damage(P, 4).await;
    assert_eq!(damaged_at(subject).await, 4);
    let raw = subject.log.block_at(P, Seq(4)).await.unwrap().expect("dump still shows it");
    assert!(raw.verify().is_err());
}

pub(crate) async fn h17_a_missing_block_is_found(subject: &Subject) {
    fill(&*subject.log, 6, 0).await;
    subject.delete(P, 3).await;
    assert_eq!(damaged_at(subject).await, 3);
}

pub(crate) async fn h17_the_missing_first_block_above_the_floor_is_found(subject: &Subject) {
    fill(&*subject.log, 6, 4).await;
    subject.log.trim(P, Seq(4)).await.unwrap();
    assert_eq!(subject.log.read(P).await.unwrap().len(), 5, "0, 1, 4, 5, 6");
    subject.delete(P, 4).await;
    assert_eq!(damaged_at(subject).await, 4);
}

pub(crate) async fn h17_an_empty_partition_is_not_a_new_one(subject: &Subject) {
    subject.delete(P, 0).await;
    assert_eq!(damaged_at(subject).await, 0);
    assert!(matches!(subject.log.tip(P).await, Err(Error::Damaged { .. })));
    let unborn = PartitionId(17);
    assert!(matches!(subject.log.read(unborn).await, Err(Error::Damaged { .. })));
    assert!(matches!(subject.log.tip(unborn).await, Err(Error::Damaged { .. })));
}

pub(crate) async fn h17_leftovers_below_the_floor_are_ignored(subject: &Subject) {
    let blocks = fill(&*subject.log, 8, 6).await;
    // A trim that was interrupted, and rows that somebody damaged, where nobody reads any more.
    subject.log.trim(P, Seq(4)).await.unwrap();
    subject.damage(P, 5).await;
    let found = subject.log.read(P).await.unwrap();
    assert_eq!(found, [&blocks[..2], &blocks[6..]].concat());
    assert_eq!(subject.log.trim(P, Seq(6)).await.unwrap(), 2, "the rest is trimmed the next time");
    assert_eq!(subject.log.trim(P, Seq(6)).await.unwrap(), 0);
    let above = subject.log.trim(P, Seq(7)).await;
    assert!(matches!(above, Err(Error::Refused(_))), "no durable block records 7: {above:?}");
}

pub(crate) async fn h17_reading_is_one_snapshot_while_trims_run(subject: &Subject) {
    // 1,200 blocks: several pages. While one side reads, the other raises the floor and trims.
    let mut tip = fill(&*subject.log, 1_200, 0).await.pop().unwrap();
    let log = Arc::clone(&subject.log);
    let trims = tokio::spawn(async move {
        for floor in (10..=1_200).step_by(17) {
            tip = after(&tip, BlockKind::Data, 1, floor, b"");
            assert_eq!(log.append(&tip).await.unwrap(), Appended::Written);
            log.trim(P, Seq(floor)).await.unwrap();
        }
    });
    let mut reads = 0;
    while !trims.is_finished() {
        let blocks = subject.log.read(P).await.expect("whole at any moment");
        assert!(blocks.len() >= 3);
        reads += 1;
        tokio::task::yield_now().await;
    }
    trims.await.unwrap();
    assert!(reads > 0);
}

pub(crate) async fn two_owners_fight_and_one_wins_each_block(subject: &Subject) {
    let mut tip = fill(&*subject.log, 1, 0).await.pop().unwrap();
    for round in 0..50 {
        let one = after(&tip, BlockKind::Epoch, round + 2, 0, b"one");
        let two = after(&tip, BlockKind::Epoch, round + 2, 0, b"two");
        let (logs, blocks) = ([Arc::clone(&subject.log), Arc::clone(&subject.log)], [one, two]);
        let tasks = logs
            .into_iter()
            .zip(blocks.clone())
            .map(|(log, block)| tokio::spawn(async move { log.append(&block).await.unwrap() }));
        let mut answers = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            answers.push(task.await.unwrap());
        }
        let winner = answers.iter().position(|answer| *answer == Appended::Written).expect("one wins");
        assert_eq!(answers[1 - winner], Appended::Conflict, "round {round}");
        tip = blocks[winner].clone();
    }
    assert_eq!(subject.log.read(P).await.unwrap().len(), 52);
}

/// An owner that lost its lease, and appends faster than a claimant looks.
pub(crate) async fn m22_an_owner_without_a_lease_does_not_starve_a_claimant(subject: &Subject) {
    let mut tip = fill(&*subject.log, 1, 0).await.pop().unwrap();
    let seen = tip.clone();
    for _ in 0..3 {
        tip = after(&tip, BlockKind::Data, 1, 0, b"fast");
        assert_eq!(subject.log.append(&tip).await.unwrap(), Appended::Written);
    }
    // Too slow, as often before; but now it is known that somebody comes.
    let late = after(&seen, BlockKind::Epoch, 2, 0, b"claim");
    assert_eq!(subject.log.append(&late).await.unwrap(), Appended::Conflict);
    let next = after(&tip, BlockKind::Data, 1, 0, b"fast");
    assert_eq!(subject.log.append(&next).await.unwrap(), Appended::Conflict, "turned away");
    assert_eq!(subject.log.append(&tip).await.unwrap(), Appended::AlreadyThere, "what is there is there");
    let claim = after(&tip, BlockKind::Epoch, 2, 0, b"claim");
    assert_eq!(subject.log.append(&claim).await.unwrap(), Appended::Written);
    let works = after(&claim, BlockKind::Data, 2, 0, b"");
    assert_eq!(subject.log.append(&works).await.unwrap(), Appended::Written);
}

/// A claimant whose epoch the log has reached; and one that claimed and died: the owner before comes back with
/// the same number.
pub(crate) async fn m22_a_late_claim_turns_nobody_away(subject: &Subject) {
    let first = fill(&*subject.log, 1, 0).await.pop().unwrap();
    let second = after(&first, BlockKind::Epoch, 2, 0, b"");
    assert_eq!(subject.log.append(&second).await.unwrap(), Appended::Written);
    let late = after(&first, BlockKind::Epoch, 2, 0, b"late");
    assert_eq!(subject.log.append(&late).await.unwrap(), Appended::Conflict);
    let data = after(&second, BlockKind::Data, 2, 0, b"");
    assert_eq!(subject.log.append(&data).await.unwrap(), Appended::Written);
    // Far above, and dead before its block: whoever comes next claims with a lower number.
    let lost = after(&first, BlockKind::Epoch, 1_000, 0, b"dies");
    assert_eq!(subject.log.append(&lost).await.unwrap(), Appended::Conflict);
    let back = after(&data, BlockKind::Epoch, 3, 0, b"");
    assert_eq!(subject.log.append(&back).await.unwrap(), Appended::Written);
    let data = after(&back, BlockKind::Data, 3, 0, b"");
    assert_eq!(subject.log.append(&data).await.unwrap(), Appended::Written);
}

pub(crate) async fn leases_of_two_nodes(subject: &Subject) {
    let (log, long, short) = (&subject.log, Duration::from_secs(60), Duration::from_millis(300));
    let first = log.lease(P, "a", "10.0.0.1:7460", long).await.unwrap();
    assert!(first.held && first.owner == "a" && first.remaining <= long);
    let second = log.lease(P, "b", "10.0.0.2:7460", long).await.unwrap();
    assert!(!second.held);
    assert_eq!((second.owner.as_str(), second.address.as_str()), ("a", "10.0.0.1:7460"));
    assert!(second.remaining > Duration::from_secs(30) && second.remaining <= long, "{:?}", second.remaining);
    assert!(log.lease(PartitionId(1), "b", "x", long).await.unwrap().held, "each partition has its own");
    // Renewed by its holder, for a shorter time; given back by somebody else without effect.
    assert!(log.lease(P, "a", "10.0.0.1:7460", long).await.unwrap().held);
    log.release(P, "b").await.unwrap();
    assert!(!log.lease(P, "b", "x", long).await.unwrap().held);
    log.release(P, "a").await.unwrap();
    assert!(log.lease(P, "b", "x", short).await.unwrap().held, "given back");
    assert!(!log.lease(P, "a", "x", long).await.unwrap().held);
    match &subject.kind {
        Kind::Memory(memory) => memory.advance(short),
        Kind::Sqlite(_) | Kind::Postgres(_) | Kind::Placed(..) => {
            tokio::time::sleep(short + Duration::from_millis(100)).await;
        }
    }
    assert!(log.lease(P, "a", "x", long).await.unwrap().held, "expired by the log's clock");
    let nowhere = log.lease(PartitionId(99), "a", "x", long).await;
    assert!(matches!(nowhere, Err(Error::Refused(_))), "{nowhere:?}");
    log.release(PartitionId(99), "a").await.unwrap();
}

pub(crate) async fn the_clock_is_near_ours(subject: &Subject) {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let theirs = subject.log.now().await.unwrap().0;
    assert!(ours.abs_diff(theirs) < 60_000, "{ours} and {theirs}");
    assert!(!subject.log.describe().is_empty());
}
