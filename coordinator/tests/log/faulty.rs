//! The memory log as a model of races, and the wrapper that makes faults.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::log::{
    Appended, BlockKind, Error, Fault, FaultRates, FaultyLog, HistoryBatch, HistoryWatermark, MemoryLog,
    TransactionLog,
};
use unanimity_types::{Epoch, Seq};

use crate::subject::{P, after, fill};

#[tokio::test]
async fn c4_an_append_lands_after_its_sender_read_absent() {
    let faulty = FaultyLog::new(Arc::new(MemoryLog::new(1)), 1);
    let tip = fill(&faulty, 3, 0).await.pop().unwrap();
    let block = after(&tip, BlockKind::Data, 1, 0, b"commit X");
    faulty.script(Fault::AppendLate);
    assert!(matches!(faulty.append(&block).await, Err(Error::Unknown(_))));
    assert_eq!(faulty.block_at(P, block.seq).await.unwrap(), None, "reading says absent");
    assert!(matches!(faulty.land_late().await[..], [Ok(Appended::Written)]), "and then it lands");
    assert_eq!(faulty.append(&block).await.unwrap(), Appended::AlreadyThere, "only the offer tells");
    assert_eq!((faulty.fired(Fault::AppendLate), faulty.fired(Fault::LateLanded)), (1, 1));
}

#[tokio::test]
async fn c4_done_lost_failed_and_refused_appends() {
    let faulty = FaultyLog::new(Arc::new(MemoryLog::new(1)), 1);
    let tip = fill(&faulty, 1, 0).await.pop().unwrap();
    let block = after(&tip, BlockKind::Data, 1, 0, b"");
    let faults =
        [Fault::AppendFailed, Fault::AppendRefused, Fault::AppendLostUnknown, Fault::AppendDoneUnknown];
    for fault in faults {
        faulty.script(fault);
    }
    assert!(matches!(faulty.append(&block).await, Err(Error::Unavailable(_))));
    assert!(matches!(faulty.append(&block).await, Err(Error::Refused(_))));
    assert!(matches!(faulty.append(&block).await, Err(Error::Unknown(_))));
    assert_eq!(faulty.block_at(P, block.seq).await.unwrap(), None);
    assert!(matches!(faulty.append(&block).await, Err(Error::Unknown(_))));
    assert_eq!(faulty.block_at(P, block.seq).await.unwrap().as_ref(), Some(&block));
    assert!(faults.iter().all(|fault| faulty.fired(*fault) == 1));
}

/// Protocol C7's interleaving: the stale append has seen block 10 when the trim deletes it. With the
/// epoch block 11 gone as well (the planted bug) it would be written; with it kept it is refused.
#[tokio::test]
async fn c7_a_stale_append_races_a_trim_in_memory() {
    for planted_bug in [true, false] {
        let log = MemoryLog::new(1);
        let old = fill(&log, 10, 0).await.pop().unwrap();
        let stale = after(&old, BlockKind::Data, 1, 0, b"commit X");
        // The old owner's append is under way: it has seen block 10.
        let held = log.hold_appends();
        let old_owner = tokio::spawn({
            let (log, stale) = (log.clone(), stale.clone());
            async move { log.append(&stale).await }
        });
        held.until_waiting(1).await;
        // Its successor, on a log of its own connection: the hold must not hold this one.
        let successor = log.fork();
        let mut tip = after(&old, BlockKind::Epoch, 2, 0, b"B");
        successor.append(&tip).await.unwrap();
        for floor in [0, 13] {
            tip = after(&tip, BlockKind::Data, 2, floor, b"");
            successor.append(&tip).await.unwrap();
        }
        log.adopt(&successor);
        assert_eq!(log.trim(P, Seq(13)).await.unwrap(), 10, "2 to 10 and 12");
        if planted_bug {
            assert!(log.remove(P, Seq(11)));
        }
        drop(held);
        let answer = old_owner.await.unwrap().unwrap();
        assert_eq!(answer, if planted_bug { Appended::Written } else { Appended::Conflict });
    }
}

#[tokio::test]
async fn c7_the_wrapper_races_late_appends_with_trims() {
    for planted_bug in [true, false] {
        let memory = MemoryLog::new(1);
        let faulty = FaultyLog::over_memory(memory.clone(), 1);
        let old = fill(&faulty, 10, 0).await.pop().unwrap();
        let stale = after(&old, BlockKind::Data, 1, 0, b"commit X");
        faulty.script(Fault::AppendLate);
        assert!(matches!(faulty.append(&stale).await, Err(Error::Unknown(_))));
        let mut tip = after(&old, BlockKind::Epoch, 2, 0, b"B");
        faulty.append(&tip).await.unwrap();
        for floor in [0, 13] {
            tip = after(&tip, BlockKind::Data, 2, floor, b"");
            faulty.append(&tip).await.unwrap();
        }
        if planted_bug {
            assert!(memory.damage(P, Seq(11), |block| block.kind = BlockKind::Data));
        }
        faulty.script(Fault::TrimRaced);
        faulty.trim(P, Seq(13)).await.unwrap();
        assert_eq!(faulty.fired(Fault::TrimRaced), 1);
        let hole = u64::from(planted_bug);
        assert_eq!((faulty.fired(Fault::LateLanded), faulty.fired(Fault::LateRefused)), (hole, 1 - hole));
    }
}

#[tokio::test]
async fn the_switch_makes_every_call_unavailable() {
    let faulty = FaultyLog::new(Arc::new(MemoryLog::new(1)), 1);
    let tip = fill(&faulty, 1, 0).await.pop().unwrap();
    faulty.set_unavailable(true);
    let block = after(&tip, BlockKind::Data, 1, 0, b"");
    assert!(matches!(faulty.append(&block).await, Err(Error::Unavailable(_))));
    assert!(matches!(faulty.read(P).await, Err(Error::Unavailable(_))));
    assert!(matches!(faulty.now().await, Err(Error::Unavailable(_))));
    faulty.set_unavailable(false);
    assert_eq!(faulty.append(&block).await.unwrap(), Appended::Written);
    assert_eq!(faulty.fired(Fault::Unavailable), 3);
}

/// I12: with dice every fault is really hit, and the log is whole in spite of all of them.
#[tokio::test(start_paused = true)]
async fn i12_every_fault_is_hit_and_the_chain_stays_whole() {
    let memory = MemoryLog::new(1);
    let faulty = FaultyLog::over_memory(memory.clone(), 7);
    let mut tip = fill(&faulty, 1, 0).await.pop().unwrap();
    faulty.set_rates(FaultRates::all(0.1));
    for round in 0..3_000_u64 {
        if round == 1_000 {
            faulty.set_unavailable(true);
            assert!(faulty.now().await.is_err());
            faulty.set_unavailable(false);
        }
        let floor = if round % 10 == 0 { tip.seq.0 } else { tip.floor.0 };
        let block = after(&tip, BlockKind::Data, 1, floor, &round.to_be_bytes());
        // C4: the same bytes at the same place until the answer is final.
        loop {
            match faulty.append(&block).await {
                Ok(Appended::Written | Appended::AlreadyThere) => break,
                Ok(Appended::Conflict) => panic!("the only owner was told of a conflict"),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        tip = block;
        let watermark = HistoryWatermark { epoch: Epoch(1), seq: tip.seq };
        let line = (tip.seq, tip.checksum);
        // Whether these succeed is the dice's affair.
        let _ = faulty.write_history(HistoryBatch { partition: P, rows: Vec::new(), watermark, line }).await;
        let _ = faulty.trim(P, tip.floor).await;
        let _ = faulty.lease(P, "a", "x", Duration::from_secs(1)).await;
        let _ = faulty.set_draining("a", false).await;
        let _ = faulty.tip(P).await;
    }
    faulty.set_rates(FaultRates::default());
    faulty.land_late().await;
    let blocks = memory.read(P).await.expect("whole");
    assert_eq!(blocks.last(), Some(&tip));
    for (fault, count) in faulty.counts() {
        assert!(count > 0, "{fault:?} was never hit");
    }
    eprintln!("log tests: faults {:?}", faulty.counts());
}

#[tokio::test]
async fn h6_a_lost_tail_a_fork_and_a_crash_can_be_modelled() {
    let log = MemoryLog::new(1);
    let blocks = fill(&log, 6, 0).await;
    let backup = log.fork();
    assert_eq!(backup.identity(), log.identity());
    let next = after(&blocks[6], BlockKind::Data, 1, 0, b"");
    assert_eq!(log.append(&next).await.unwrap(), Appended::Written);
    assert_eq!(backup.tip(P).await.unwrap().seq, Seq(6), "the backup knows nothing of it");
    log.lose_tail(P, Seq(4));
    assert_eq!(log.append(&next).await.unwrap(), Appended::Conflict, "a live owner notices");
    assert_eq!(log.clone().read(P).await.unwrap(), blocks[..5], "a new one does not: it needs a witness");
}
