//! What every log does with history.

use std::collections::BTreeMap;

use fastrand::Rng;
use unanimity_coordinator::log::{
    Checksum, Error, HistoryBatch, HistoryFilter, HistoryRow, HistoryWatermark, TransactionLog,
    UNSTORABLE_TEXT,
};
use unanimity_types::{AbortReason, Decision, Digest, Epoch, Mode, PartitionId, Seq, Status, Timestamp, Xid};
use uuid::Uuid;

use crate::subject::{Kind, P, Subject};

pub(crate) fn row(number: u128, status: Status) -> HistoryRow {
    HistoryRow {
        xid: Xid::new(Uuid::from_u128(number)),
        partition: P,
        mode: Some(Mode::Tcc),
        name: "place-order".to_owned(),
        status,
        decision: status.decision(),
        abort_reason: (status.decision() == Some(Decision::Abort)).then_some(AbortReason::Requested),
        digest: Digest([3; 16]),
        begun_at: Timestamp(1_700_000_000_000 + number as u64),
        deadline: Timestamp(1_700_000_060_000),
        decided_at: status.decision().map(|_| Timestamp(1_700_000_001_000)),
        finished_at: status.is_terminal().then_some(Timestamp(1_700_000_002_500)),
        attention: None,
        heuristic: false,
        participants: vec!["payment".to_owned(), "stock ö\"'".to_owned()],
        detail: r#"{"b":[[1,"k1","stock/reserve","confirmed",2,"refused",null,null],[2,"k2","payment/debit","confirming",5,null,"ann","told so"]],"t":[[1700000000000,"begun",null,null]],"a":["attempts","five attempts failed",1700000002000]}"#.to_owned(),
        epoch: Epoch(1),
        seq: Seq(2),
    }
}

/// The detail of branches that are more than plain TCC ones.
pub(crate) const AS_A_SAGA: &str = r#"{"b":[[1,"s1","flights/book | flights/unbook","compensating",2,"refused","","",{"k":"step","p":true,"s":["pivot",[],null]}],[2,"s2","stock/reserve","registered",0,"","","",{"l":["sku-7","sku-8"]}]],"t":[]}"#;

/// As the engine writes it since history is compact.
pub(crate) const COMPACT: &str = r##"{"b":[[1,["#1@c1"],"stock/reserve",3,1],[2,"own key","payment/debit",24,0,"no","ann","so",{"p":true}],[3,"k","x","a_later_word"]],"d":[[0,1],[2,2,1]]}"##;

/// Key, status, attempts, last error and the reason of who resolved it, as the view `branches` shows them.
pub(crate) type CompactBranch = (String, String, i64, Option<String>, Option<String>);

pub(crate) async fn write(log: &dyn TransactionLog, rows: Vec<HistoryRow>, epoch: u64, seq: u64) {
    let watermark = HistoryWatermark { epoch: Epoch(epoch), seq: Seq(seq) };
    let line = birth(log).await;
    log.write_history(HistoryBatch { partition: P, rows, watermark, line }).await.expect("write_history");
}

/// A block that stays for ever.
async fn birth(log: &dyn TransactionLog) -> (Seq, Checksum) {
    let block = log.block_at(P, Seq(0)).await.expect("block_at").expect("born");
    (block.seq, block.checksum)
}

/// An owner that does not know yet that the log lost its tail, and one whose blocks somebody trimmed.
pub(crate) async fn c8_h6_nothing_is_written_beside_a_log_without_the_block(subject: &Subject) {
    let log = &*subject.log;
    let (seq, checksum) = birth(log).await;
    write(log, vec![row(1, Status::Active)], 1, 5).await;
    let mut other = checksum;
    other.0[0] ^= 1;
    for line in [(seq, other), (Seq(7), checksum)] {
        let watermark = HistoryWatermark { epoch: Epoch(2), seq: Seq(9) };
        let mut over = row(1, Status::Committed);
        over.epoch = Epoch(2);
        let batch = HistoryBatch { partition: P, rows: vec![over, row(2, Status::Active)], watermark, line };
        let refused = log.write_history(batch).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    assert_eq!(find(log, 1).await.unwrap().status, Status::Active);
    assert_eq!(find(log, 2).await, None);
    assert_eq!(log.history_watermark(P).await.unwrap().seq, Seq(5));
}

pub(crate) async fn find(log: &dyn TransactionLog, number: u128) -> Option<HistoryRow> {
    let xid = Xid::new(Uuid::from_u128(number));
    let mut found = log.find_history(&[xid, xid]).await.expect("find_history");
    assert!(found.len() <= 1);
    found.pop()
}

pub(crate) async fn rows_come_back_as_they_went_in(subject: &Subject) {
    let log = &*subject.log;
    let mut rows: Vec<HistoryRow> =
        Status::ALL.iter().enumerate().map(|(number, status)| row(number as u128 + 1, *status)).collect();
    rows[0].mode = None;
    rows[0].name = String::new();
    rows[0].participants = Vec::new();
    rows[0].detail = "{}".to_owned();
    rows[1].attention = Some("attempts".to_owned());
    rows[1].heuristic = true;
    write(log, rows.clone(), 1, 5).await;
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(find(log, number as u128 + 1).await.as_ref(), Some(row));
    }
    assert_eq!(find(log, 99).await, None);
    assert!(log.find_history(&[]).await.unwrap().is_empty());
    // The end of time stays far away.
    let mut endless = row(50, Status::Active);
    endless.deadline = Timestamp(u64::MAX);
    write(log, vec![endless], 1, 5).await;
    assert!(find(log, 50).await.unwrap().deadline.0 >= i64::MAX as u64);
    // What contradicts itself is a bug of ours: refused, the whole batch.
    let mut wrong = row(60, Status::Committed);
    wrong.decision = Some(Decision::Abort);
    let watermark = HistoryWatermark { epoch: Epoch(9), seq: Seq(9) };
    for rows in [vec![row(61, Status::Active), wrong], vec![row(62, Status::Active), row(62, Status::Active)]]
    {
        let line = birth(log).await;
        let refused = log.write_history(HistoryBatch { partition: P, rows, watermark, line }).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    assert_eq!(find(log, 61).await, None);
    assert_eq!(log.history_watermark(P).await.unwrap().seq, Seq(5), "rows and watermark together");
}

/// The rule, written once more.
fn wins(old: &HistoryRow, new: &HistoryRow) -> bool {
    let terminal = matches!(old.status, Status::Committed | Status::Aborted);
    (new.epoch.0, new.seq.0) > (old.epoch.0, old.seq.0)
        && (!terminal || (new.heuristic && new.status == old.status))
}

pub(crate) async fn h12_rows_and_watermarks_change_upwards_only(subject: &Subject) {
    let log = &*subject.log;
    // By name: the deposed projector's batch comes last and changes nothing.
    write(log, vec![row(1, Status::Committed)], 2, 30).await;
    let mut stale = row(1, Status::Active);
    stale.epoch = Epoch(1);
    write(log, vec![stale], 1, 99).await;
    assert_eq!(find(log, 1).await.unwrap().status, Status::Committed);
    assert_eq!(log.history_watermark(P).await.unwrap(), HistoryWatermark { epoch: Epoch(2), seq: Seq(30) });
    assert_eq!(log.history_watermark(PartitionId(1)).await.unwrap(), HistoryWatermark::default());

    // At random, against the rule.
    let seed = fastrand::u64(..);
    eprintln!("log tests: h12 seed {seed}");
    let mut random = Rng::with_seed(seed);
    let mut model: BTreeMap<Xid, HistoryRow> = BTreeMap::new();
    let mut highest = (2, 30);
    for _ in 0..150 {
        let mut rows: BTreeMap<Xid, HistoryRow> = BTreeMap::new();
        for _ in 0..random.usize(..6) {
            let mut row = row(random.u128(10..22), Status::ALL[random.usize(..Status::ALL.len())]);
            row.epoch = Epoch(random.u64(1..4));
            row.seq = Seq(random.u64(1..8));
            row.heuristic = random.bool();
            row.name = format!("n{}", random.u32(..));
            rows.insert(row.xid, row);
        }
        let watermark = (random.u64(1..5), random.u64(1..60));
        highest = highest.max(watermark);
        write(log, rows.values().cloned().collect(), watermark.0, watermark.1).await;
        for (xid, row) in rows {
            if model.get(&xid).is_none_or(|old| wins(old, &row)) {
                model.insert(xid, row);
            }
        }
    }
    let xids: Vec<Xid> = model.keys().copied().collect();
    let found = log.find_history(&xids).await.unwrap();
    assert_eq!(found.iter().map(|row| (row.xid, row.clone())).collect::<BTreeMap<_, _>>(), model);
    let watermark = log.history_watermark(P).await.unwrap();
    assert_eq!((watermark.epoch.0, watermark.seq.0), highest);
}

pub(crate) async fn m5_unstorable_text_does_not_stop_the_projection(subject: &Subject) {
    let log = &*subject.log;
    let mut poisoned = row(1, Status::Committed);
    poisoned.name = "a\0b".to_owned();
    poisoned.detail = r#"{"b":[[1,"k","t","confirmed",1,"err\u0000or",null,null]],"t":[]}"#.to_owned();
    let mut broken = row(2, Status::Aborted);
    broken.detail = r#"{"b":[[1,"\ud800""#.to_owned();
    let fine = row(3, Status::Committed);
    write(log, vec![poisoned, broken, fine.clone()], 1, 7).await;
    let found = find(log, 1).await.unwrap();
    assert_eq!((found.name.as_str(), found.attention.as_deref()), ("ab", Some(UNSTORABLE_TEXT)));
    assert!(found.detail.contains("error") && found.status == Status::Committed);
    let found = find(log, 2).await.unwrap();
    assert_eq!((found.status, found.attention.as_deref()), (Status::Aborted, Some(UNSTORABLE_TEXT)));
    assert_eq!(find(log, 3).await.unwrap(), fine);
    assert_eq!(log.history_watermark(P).await.unwrap().seq, Seq(7), "nothing holds up the trim");
    let filter = HistoryFilter { attention: true, limit: 10, ..HistoryFilter::default() };
    assert_eq!(log.list_history(&filter).await.unwrap().rows.len(), 2);

    // What only the database knows to refuse: that row loses its texts, the others nothing.
    if let Kind::Postgres(_) = subject.kind {
        subject.sql("ALTER TABLE history ADD CHECK (name <> 'poison')").await;
        let mut poison = row(4, Status::Committed);
        poison.name = "poison".to_owned();
        let fine = row(5, Status::Committed);
        write(log, vec![poison, fine.clone()], 1, 8).await;
        let found = find(log, 4).await.unwrap();
        assert_eq!((found.name.as_str(), found.attention.as_deref()), ("", Some(UNSTORABLE_TEXT)));
        assert_eq!(find(log, 5).await.unwrap(), fine);
        assert_eq!(log.history_watermark(P).await.unwrap().seq, Seq(8));
    }
}

/// As a page has it: of the detail only what needs attention, however the database writes it.
fn brief(row: &HistoryRow) -> HistoryRow {
    let detail: serde_json::Value = serde_json::from_str(&row.detail).unwrap();
    let attention = row.attention.is_some().then(|| detail["a"].to_string());
    HistoryRow { detail: attention.unwrap_or_default(), ..row.clone() }
}

pub(crate) async fn pages_and_filters(subject: &Subject) {
    let log = &*subject.log;
    let mut rows = Vec::new();
    for number in 1..=60_u128 {
        let mut row = row(number, Status::ALL[number as usize % Status::ALL.len()]);
        // Several of the same moment: the xid decides.
        row.begun_at = Timestamp(1_700_000_000_000 + number as u64 / 4);
        row.name = format!("name-{}", number % 3);
        row.participants = vec![format!("p{}", number % 5), "pz".to_owned()];
        row.attention = (number % 7 == 0).then(|| "attempts".to_owned());
        rows.push(row);
    }
    write(log, rows.clone(), 1, 1).await;
    rows.sort_by_key(|row| std::cmp::Reverse((row.begun_at, row.xid)));

    let filters = [
        HistoryFilter::default(),
        HistoryFilter { status: Some(Status::Committed), ..HistoryFilter::default() },
        HistoryFilter { status: Some(Status::Active), ..HistoryFilter::default() },
        HistoryFilter { mode: Some(Mode::Tcc), ..HistoryFilter::default() },
        HistoryFilter { name: Some("name-1".into()), ..HistoryFilter::default() },
        HistoryFilter { name: Some("' OR 1=1; --".into()), ..HistoryFilter::default() },
        HistoryFilter { participant: Some("p2".into()), ..HistoryFilter::default() },
        HistoryFilter { begun_before: Some(Timestamp(1_700_000_000_008)), ..HistoryFilter::default() },
        HistoryFilter { attention: true, ..HistoryFilter::default() },
        HistoryFilter {
            participant: Some("pz".into()),
            status: Some(Status::Aborted),
            name: Some("name-2".into()),
            ..HistoryFilter::default()
        },
    ];
    for filter in filters {
        let expected: Vec<&HistoryRow> = rows
            .iter()
            .filter(|row| filter.status.is_none_or(|status| row.status == status))
            .filter(|row| filter.name.as_ref().is_none_or(|name| row.name == *name))
            .filter(|row| filter.participant.as_ref().is_none_or(|p| row.participants.contains(p)))
            .filter(|row| filter.begun_before.is_none_or(|moment| row.begun_at < moment))
            .filter(|row| !filter.attention || row.attention.is_some())
            .collect();
        for limit in [1, 7, 1_000, 0, u32::MAX] {
            let mut filter = HistoryFilter { limit, ..filter.clone() };
            let mut found = Vec::new();
            loop {
                let page = log.list_history(&filter).await.unwrap();
                assert!(page.rows.len() <= limit.clamp(1, 1_000) as usize);
                found.extend(page.rows);
                if !page.more {
                    break;
                }
                filter.after = found.last().map(|row| (row.begun_at, row.xid));
            }
            let expected: Vec<HistoryRow> = expected.iter().map(|row| brief(row)).collect();
            assert_eq!(found.iter().map(brief).collect::<Vec<_>>(), expected, "{filter:?}");
            assert!(found.iter().all(|row| !row.detail.contains("k1")), "no branches in pages");
        }
    }
}
