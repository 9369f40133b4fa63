//! What is written is what is read, for every event; and what the first version wrote stays readable.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use unanimity_core::{
    Attention, AttentionCode, Branch, BranchTraits, DecisionRecord, Event, LockEvent, OperatorAction,
    Persistence, Resolution, Step, TimelineEntry, TimelineKind, Transaction, TwoPhase,
};
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchStatus, BranchTargets, CallPolicy, DecideHash,
    Decision, Digest, Epoch, Mode, Name, Operation, PartitionId, ResolveAs, Seq, StepRole, Target, Timestamp,
    Vote, Xid,
};

use super::{BodyWriter, CodecError, LoggedEvent, PartitionEvent, decode};
use crate::log::{Block, BlockHeader, BlockKind, Checksum};

const ROUNDS: usize = 20_000;

fn writer() -> BodyWriter {
    let mut writer = BodyWriter::default();
    writer.start(Timestamp(1_000));
    writer
}

fn block_of(body: Bytes) -> Block {
    block_in(2, body)
}

fn block_in(format: u16, body: Bytes) -> Block {
    let header = BlockHeader {
        kind: BlockKind::Data,
        partition: PartitionId(0),
        seq: Seq(7),
        epoch: Epoch(1),
        floor: Seq(0),
        time: Timestamp(1_000),
        previous: Checksum::default(),
    };
    Block::in_format(format, header, body)
}

fn seed() -> u64 {
    let seed = std::env::var("UNANIMITY_SEED")
        .ok()
        .map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("UNANIMITY_SEED={seed}");
    seed
}

fn one_of<T: Copy>(dice: &mut Rng, all: &[T]) -> T {
    all[dice.usize(0..all.len())]
}

fn maybe<T>(dice: &mut Rng, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    if dice.bool() { Some(make(dice)) } else { None }
}

fn text(dice: &mut Rng) -> String {
    let length = dice.usize(1..12);
    std::iter::repeat_with(|| one_of(dice, &['a', 'Z', '7', '-', 'ä', '注'])).take(length).collect()
}

fn name(dice: &mut Rng) -> Name {
    Name::new(text(dice)).expect("a name")
}

fn key(dice: &mut Rng) -> BranchKey {
    BranchKey::new(text(dice)).expect("a key")
}

fn bytes(dice: &mut Rng) -> Bytes {
    let length = dice.usize(0..40);
    std::iter::repeat_with(|| dice.u8(..)).take(length).collect()
}

fn xid(dice: &mut Rng) -> Xid {
    Xid::from_slice(&(dice.u128(..) | 1).to_be_bytes()).expect("not nil")
}

fn digest(dice: &mut Rng) -> Digest {
    Digest(dice.u128(..).to_be_bytes())
}

fn decide_hash(dice: &mut Rng) -> Box<DecideHash> {
    let mut hash = [0; 32];
    dice.fill(&mut hash);
    Box::new(DecideHash(hash))
}

fn at(dice: &mut Rng) -> Timestamp {
    Timestamp(dice.u64(1..1 << 45))
}

fn id(dice: &mut Rng) -> BranchId {
    BranchId(dice.u32(1..20_000))
}

fn by(dice: &mut Rng) -> OperatorAction {
    OperatorAction { operator: text(dice).into(), reason: text(dice).into() }
}

fn target(dice: &mut Rng) -> Target {
    match dice.u8(0..3) {
        0 => Target::Participant { participant: name(dice), operation: name(dice) },
        1 => Target::Grpc(format!("http://{}", text(dice)).into()),
        _ => Target::Http(format!("http://{}", text(dice)).into()),
    }
}

fn targets(dice: &mut Rng) -> BranchTargets {
    match dice.u8(0..4) {
        0 => BranchTargets::One(target(dice)),
        1 => BranchTargets::Tcc { confirm: target(dice), cancel: target(dice) },
        2 => BranchTargets::TwoPhase {
            prepare: maybe(dice, target),
            commit: target(dice),
            rollback: target(dice),
        },
        _ => BranchTargets::Step { action: target(dice), compensate: maybe(dice, target) },
    }
}

fn wait(dice: &mut Rng) -> Duration {
    Duration::from_millis(dice.u64(1..1_000_000))
}

fn traits(dice: &mut Rng) -> BranchTraits {
    BranchTraits {
        kind: one_of(dice, BranchKind::ALL),
        two_phase: TwoPhase { early: dice.bool(), one_phase: dice.bool(), instance: maybe(dice, name) },
        policy: CallPolicy {
            initial: maybe(dice, wait),
            cap: maybe(dice, wait),
            give_up_after: maybe(dice, |dice| dice.u32(1..)),
            timeout: maybe(dice, wait),
        },
        lock_keys: (0..dice.usize(0..4)).map(|_| name(dice)).collect(),
        step: maybe(dice, |dice| Step {
            role: one_of(dice, StepRole::ALL),
            after: (0..dice.usize(0..4)).map(|_| id(dice)).collect(),
            result: None,
        }),
    }
}

fn branch(dice: &mut Rng, number: u32) -> Branch {
    let traits = traits(dice);
    let mut branch =
        Branch::new(BranchId(number), key(dice), targets(dice), bytes(dice), digest(dice), traits);
    branch.status = one_of(dice, BranchStatus::ALL);
    branch.attempts = dice.u32(..);
    branch.last_error = maybe(dice, |dice| text(dice).into());
    branch.resolved = maybe(dice, |dice| {
        let OperatorAction { operator, reason } = by(dice);
        Box::new(Resolution { operator, reason, contradicted: dice.bool() })
    });
    branch.parked = dice.bool();
    branch.vote = maybe(dice, |dice| one_of(dice, Vote::ALL));
    if let Some(step) = &mut branch.step {
        // An empty result is not the same as none.
        step.result = maybe(dice, bytes);
    }
    branch
}

fn snapshot(dice: &mut Rng, xid: Xid) -> Transaction {
    let mut whole = Transaction::empty(xid);
    whole.mode = maybe(dice, |dice| one_of(dice, Mode::ALL));
    whole.name = maybe(dice, name);
    whole.digest = digest(dice);
    whole.begun_at = at(dice);
    whole.deadline = at(dice);
    whole.decision = maybe(dice, |dice| DecisionRecord {
        decision: one_of(dice, Decision::ALL),
        reason: maybe(dice, |dice| one_of(dice, AbortReason::ALL)),
        at: at(dice),
    });
    whole.finished_at = maybe(dice, at);
    whole.branches = (1..=dice.u32(0..5)).map(|number| branch(dice, number)).collect();
    whole.timeline = (0..dice.usize(0..5))
        .map(|_| TimelineEntry {
            at: at(dice),
            kind: one_of(dice, TimelineKind::ALL),
            branch_id: maybe(dice, id),
            detail: maybe(dice, |dice| text(dice).into()),
        })
        .collect();
    whole.attention = maybe(dice, |dice| Attention {
        code: one_of(dice, AttentionCode::ALL),
        branch_id: maybe(dice, id),
        message: text(dice).into(),
        since: at(dice),
    });
    whole.planned = dice.bool();
    whole.preparing = maybe(dice, at);
    Transaction::from_snapshot(whole).expect("numbered from 1")
}

fn event(dice: &mut Rng, xid: Xid) -> Event {
    let branch_id = id(dice);
    let attempts = dice.u32(..);
    let error = || text(&mut Rng::with_seed(u64::from(attempts))).into();
    match dice.u8(0..26) {
        0 => Event::Begun {
            mode: one_of(dice, Mode::ALL),
            name: maybe(dice, name),
            digest: digest(dice),
            deadline: at(dice),
            decide_hash: maybe(dice, decide_hash),
        },
        1 => Event::Presumed,
        2 => Event::Registered {
            branch_id,
            key: key(dice),
            targets: targets(dice).into(),
            payload: bytes(dice),
            digest: digest(dice),
            traits: Box::new(traits(dice)),
        },
        3 => Event::PlanAccepted { branches: attempts },
        4 => Event::Voted { branch_id, vote: one_of(dice, Vote::ALL) },
        5 => Event::PreparesAsked { until: at(dice) },
        6 => Event::Delegated { branch_id },
        7 => Event::CheckBackAsked { branch_id },
        8 => Event::ActionDone { branch_id, attempts, result: bytes(dice) },
        9 => Event::ActionRefused { branch_id, attempts, error: error() },
        10 => Event::Parked { branch_id, attempts, error: error() },
        11 => Event::Decided {
            decision: one_of(dice, Decision::ALL),
            reason: maybe(dice, |dice| one_of(dice, AbortReason::ALL)),
            branches: attempts,
            by: maybe(dice, by),
        },
        // When the next one is due is not written.
        12 => Event::AttemptFailed { branch_id, attempts, error: error(), next_at: Timestamp(0) },
        13 => Event::BranchSettled { branch_id, attempts },
        14 => Event::BranchResolved { branch_id, resolve_as: one_of(dice, ResolveAs::ALL), by: by(dice) },
        15 => Event::Contradicted { branch_id, operation: one_of(dice, Operation::ALL) },
        16 => Event::AttentionRaised {
            code: one_of(dice, AttentionCode::ALL),
            branch_id: maybe(dice, id),
            message: error(),
        },
        17 => Event::RetryRequested { by: by(dice) },
        18 => Event::Finished,
        _ => Event::Snapshot(Box::new(snapshot(dice, xid))),
    }
}

fn partition_event(dice: &mut Rng) -> PartitionEvent {
    match dice.u8(0..5) {
        4 => PartitionEvent::Restored {
            epoch: Epoch(dice.u64(..)),
            at: at(dice),
            operator: text(dice),
            reason: text(dice),
        },
        0 => PartitionEvent::LostTailFound {
            epoch: Epoch(dice.u64(..)),
            epoch_tag: dice.u32(..),
            seq: Seq(dice.u64(..)),
        },
        1 => PartitionEvent::LossAccepted {
            epoch: Epoch(dice.u64(..)),
            operator: text(dice),
            reason: text(dice),
        },
        2 => PartitionEvent::Lock(LockEvent::Acquired { key: name(dice), xid: xid(dice), since: at(dice) }),
        _ => PartitionEvent::Lock(LockEvent::Released { key: name(dice), xid: xid(dice) }),
    }
}

#[test]
fn m7_every_event_is_read_as_it_was_written() {
    let mut dice = Rng::with_seed(seed());
    let mut writer = writer();
    for round in 0..ROUNDS / 20 {
        // One after the other with one writer, as in a cluster that is being upgraded (protocol M18).
        let format = 1 + u16::from(round % 2 == 0);
        writer.start_in(format, Timestamp(1_000));
        assert_eq!(writer.format(), format);
        let mut expected = Vec::new();
        let mut delay = 0;
        let mut of = xid(&mut dice);
        for _ in 0..dice.usize(0..40) {
            // Often the same transaction in the same millisecond, or one that was there before.
            if dice.bool() {
                delay += dice.u64(..1_000);
            }
            let again = expected.get(dice.usize(0..expected.len().max(1)));
            of = match (dice.u8(0..3), again) {
                (0, _) => of,
                (1, Some((_, LoggedEvent::Transaction(xid, _), _))) => *xid,
                _ => xid(&mut dice),
            };
            let at = Timestamp(1_000 + delay);
            let what = if dice.u8(0..5) == 0 {
                LoggedEvent::Partition(partition_event(&mut dice))
            } else {
                LoggedEvent::Transaction(of, event(&mut dice, of))
            };
            let size = match &what {
                LoggedEvent::Transaction(xid, event) => writer.event(*xid, at, event).expect("not volatile"),
                LoggedEvent::Partition(event) => writer.partition_event(at, event),
            };
            expected.push((at, what, size));
        }
        let sizes = expected.iter().map(|(_, _, size)| size).sum::<usize>();
        // In format 1 each record stands behind its tag and length, which nobody counts.
        assert!(if format == 1 { writer.len() >= sizes } else { writer.len() == sizes });
        let read = decode(&block_in(format, writer.finish())).expect("readable");
        let read: Vec<_> = read.into_iter().map(|logged| (logged.at, logged.what, logged.bytes)).collect();
        assert_eq!(read, expected);
    }
}

/// What the persistence of an event says and what is written are the same thing, but for the attempts
/// between the sparse ones.
#[test]
fn what_is_not_written_is_volatile() {
    let branch_id = BranchId(1);
    let volatile = [
        Event::CommitAsked { votes: std::collections::BTreeSet::new(), until: Timestamp(1) },
        Event::Dispatched { branch_id },
        Event::Returned { branch_id },
        Event::Deferred { branch_id, next_at: Timestamp(1) },
    ];
    let xid = xid(&mut Rng::with_seed(1));
    for event in volatile {
        assert_eq!(event.persistence(), Persistence::Volatile);
        assert_eq!(writer().event(xid, Timestamp(1_000), &event), None);
    }
    let mut dice = Rng::with_seed(2);
    for _ in 0..1_000 {
        let event = event(&mut dice, xid);
        assert!(writer().event(xid, Timestamp(1_000), &event).is_some(), "{event:?}");
    }
}

/// A body of bytes that anybody may have written is refused, never a panic.
#[test]
fn what_is_not_a_body_is_refused() {
    let mut dice = Rng::with_seed(seed());
    let xid = xid(&mut dice);
    for _ in 0..ROUNDS {
        let mut writer = writer();
        for _ in 0..3 {
            writer.event(xid, Timestamp(1_000), &event(&mut dice, xid)).expect("not volatile");
        }
        let mut body = writer.finish().to_vec();
        let place = dice.usize(0..body.len());
        body[place] = dice.u8(..);
        if dice.bool() {
            body.truncate(dice.usize(0..=body.len()));
        }
        let mut block = block_of(body.into());
        let _ = decode(&block);
        block.version = 1;
        let _ = decode(&block);
    }
}

/// A TCC transaction as the first version wrote it: put together by hand from the schema of then, when
/// branches had no kinds. Numbers of fields never change their meaning.
#[test]
fn m18_what_the_first_version_wrote_stays_readable() {
    let mut block = block_of(bytes_of(FIRST_VERSION));
    block.version = 1;
    let logged = decode(&block).expect("readable");
    let xid = Xid::from_slice(&[0x11; 16]).expect("not nil");
    let events: Vec<Event> = logged
        .into_iter()
        .map(|logged| match logged.what {
            LoggedEvent::Transaction(of, event) if of == xid => event,
            other => panic!("{other:?}"),
        })
        .collect();
    let name = |text: &str| Name::new(text).expect("a name");
    let key = |text: &str| BranchKey::new(text).expect("a key");
    let digest = Digest([0x22; 16]);
    let to = BranchTargets::One(Target::Participant {
        participant: name("inventory"),
        operation: name("reserve"),
    });
    let callbacks = BranchTargets::Tcc {
        confirm: Target::Http("http://a/c".into()),
        cancel: Target::Http("http://a/x".into()),
    };
    let traits = || Box::new(BranchTraits::of(BranchKind::Tcc));
    let expected = [
        Event::Begun {
            mode: Mode::Tcc,
            name: Some(name("order")),
            digest,
            deadline: Timestamp(60_000),
            decide_hash: None,
        },
        Event::Registered {
            branch_id: BranchId(1),
            key: key("stock"),
            targets: to.into(),
            payload: "{}".into(),
            digest,
            traits: traits(),
        },
        Event::Registered {
            branch_id: BranchId(2),
            key: key("pay"),
            targets: callbacks.into(),
            payload: Bytes::new(),
            digest,
            traits: traits(),
        },
        Event::Decided { decision: Decision::Commit, reason: None, branches: 2, by: None },
        Event::AttemptFailed {
            branch_id: BranchId(1),
            attempts: 1,
            error: "no answer".into(),
            next_at: Timestamp(0),
        },
        Event::BranchSettled { branch_id: BranchId(1), attempts: 2 },
        Event::BranchResolved {
            branch_id: BranchId(2),
            resolve_as: ResolveAs::Confirmed,
            by: OperatorAction { operator: "ops".into(), reason: "paid".into() },
        },
        Event::Finished,
    ];
    assert_eq!(events[..8], expected);
    let Some(Event::Snapshot(whole)) = events.last() else { panic!("the last one is a snapshot") };
    assert_eq!((whole.begun_at, whole.deadline, whole.planned), (Timestamp(1_000), Timestamp(60_000), false));
    assert_eq!(whole.preparing, None);
    assert_eq!(whole.timeline.len(), 1);
    let branch = &whole.branches[0];
    assert_eq!((branch.kind, branch.status, branch.attempts), (BranchKind::Tcc, BranchStatus::Confirmed, 2));
    assert_eq!((branch.vote, branch.parked, branch.step.is_none()), (None, false, true));
}

/// What a cluster writes in which a node knows only format 1, is what that node would have written.
#[test]
fn m18_the_first_format_is_written_as_the_first_version_wrote_it() {
    let first = block_in(1, bytes_of(FIRST_VERSION));
    let mut writer = BodyWriter::default();
    writer.start_in(1, first.time);
    for logged in decode(&first).expect("readable") {
        let LoggedEvent::Transaction(xid, event) = logged.what else { panic!("{logged:?}") };
        assert_eq!(writer.event(xid, logged.at, &event), Some(logged.bytes));
    }
    assert_eq!(writer.finish(), first.body);
}

#[test]
fn m18_a_block_of_an_unknown_format_stops_its_reader() {
    let read = decode(&block_in(3, Bytes::new()));
    assert!(matches!(read, Err(CodecError::Unknown(_))), "{read:?}");
}

fn bytes_of(hex: &[&str]) -> Bytes {
    let hex = hex.concat();
    let byte = |place| u8::from_str_radix(&hex[place..place + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

const FIRST_VERSION: &[&str] = &[
    "0a330a10111111111111111111111111111111111a1f080112056f726465721a10222222222222222222222222222222",
    "2220e0d4030a4f0a1011111111111111111111111111111111100122390801120573746f636b1a180a160a140a09696e",
    "76656e746f727912077265736572766522027b7d2a10222222222222222222222222222222220a4d0a10111111111111",
    "1111111111111111111110012237080212037061791a1c120c1a0a687474703a2f2f612f631a0c1a0a687474703a2f2f",
    "612f782a10222222222222222222222222222222220a1b0a101111111111111111111111111111111110ac022a040801",
    "18020a260a101111111111111111111111111111111110ad02320f080110011a096e6f20616e737765720a1b0a101111",
    "111111111111111111111111111110ae023a04080110020a260a101111111111111111111111111111111110af02420f",
    "080210011a036f70732204706169640a170a101111111111111111111111111111111110b00262000a91010a10111111",
    "1111111111111111111111111110b102727a080112056f726465721a102222222222222222222222222222222220e807",
    "28e0d403300140940a524a0a390801120573746f636b1a180a160a140a09696e76656e746f7279120772657365727665",
    "22027b7d2a10222222222222222222222222222222221003180222096e6f20616e737765725a0508e8071001",
];

/// A two-branch TCC transaction of 64-byte payloads, as it goes into one block.
fn plain_tcc(xid: Xid) -> Vec<Event> {
    let name = |text: &str| Name::new(text).expect("a name");
    let registered = |number: u32, participant: &str| Event::Registered {
        branch_id: BranchId(number),
        key: BranchKey::new(format!("{participant}/reserve#{number}@0123456789abcdef")).expect("a key"),
        targets: BranchTargets::One(Target::Participant {
            participant: name(participant),
            operation: name("reserve"),
        })
        .into(),
        payload: Bytes::from_static(&[0x33; 64]),
        digest: Digest(*xid.as_bytes()),
        traits: Box::new(BranchTraits::of(BranchKind::Tcc)),
    };
    vec![
        Event::Begun {
            mode: Mode::Tcc,
            name: Some(name("order")),
            digest: Digest([0x22; 16]),
            deadline: Timestamp(61_000),
            decide_hash: None,
        },
        registered(1, "inventory"),
        registered(2, "payment"),
        Event::Decided { decision: Decision::Commit, reason: None, branches: 2, by: None },
        Event::BranchSettled { branch_id: BranchId(1), attempts: 1 },
        Event::BranchSettled { branch_id: BranchId(2), attempts: 1 },
        Event::Finished,
    ]
}

/// The second format, byte by byte: what it says never changes its meaning.
#[test]
fn m18_the_second_format_stays_as_it_is() {
    let xid = Xid::from_slice(&[0x11; 16]).expect("not nil");
    let mut writer = writer();
    let events = plain_tcc(xid);
    for (event, delay) in events.iter().zip([0, 0, 1, 300, 301, 301, 301]) {
        writer.event(xid, Timestamp(1_000 + delay), event).expect("not volatile");
    }
    let body = writer.finish();
    let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, SECOND_VERSION.concat());
    let read = decode(&block_of(bytes_of(SECOND_VERSION))).expect("readable");
    let read: Vec<_> = read.into_iter().map(|logged| logged.what).collect();
    assert_eq!(
        read,
        events.into_iter().map(|event| LoggedEvent::Transaction(xid, event)).collect::<Vec<_>>()
    );
    // What a newer version may say stops this one.
    for unknown in [&[0x1F, 0][..], &[0x4A, 0][..], &[0x41, 0][..]] {
        let body = Bytes::copy_from_slice(unknown);
        assert!(matches!(decode(&block_of(body)), Err(CodecError::Unknown(_))));
    }
}

/// A two-branch TCC transaction with payloads of 64 bytes takes at most 500 bytes of the log, blocks'
/// headers included, also if its events come in five blocks that it shares with 15 others.
#[test]
fn log_bytes_of_a_two_branch_tcc_transaction() {
    const SHARED_BY: usize = 16;
    let mut dice = Rng::with_seed(7);
    let xids: Vec<Xid> = (0..SHARED_BY).map(|_| xid(&mut dice)).collect();
    let mut bytes = 0;
    let mut writer = writer();
    for events in [0..1, 1..3, 3..4, 4..6, 6..7] {
        writer.start(Timestamp(1_000));
        for xid in &xids {
            for event in &plain_tcc(*xid)[events.clone()] {
                writer.event(*xid, Timestamp(1_002), event).expect("not volatile");
            }
        }
        bytes += block_of(writer.finish()).bytes();
    }
    println!("{} bytes for each transaction", bytes / SHARED_BY);
    assert!(bytes / SHARED_BY <= 500, "{} bytes", bytes / SHARED_BY);
}

const SECOND_VERSION: &[&str] = &[
    "420011111111111111111111111111111111000122222222222222222222222222222222c0a90700056f726465728301",
    "24696e76656e746f72792f726573657276652331403031323334353637383961626364656600180a160a140a09696e76",
    "656e746f7279120772657365727665403333333333333333333333333333333333333333333333333333333333333333",
    "333333333333333333333333333333333333333333333333333333333333333311111111111111111111111111111111",
    "03010102227061796d656e742f726573657276652332403031323334353637383961626364656600160a140a120a0770",
    "61796d656e74120772657365727665403333333333333333333333333333333333333333333333333333333333333333",
    "333333333333333333333333333333333333333333333333333333333333333311111111111111111111111111111111",
    "0401ac020100020601ad0201018602018a",
];
