//! Blocks of the log: their decoder, and what the checksum must find.

use bytes::Bytes;
use proptest::prelude::*;
use unanimity_coordinator::engine::{BodyWriter, LoggedEvent, decode};
use unanimity_coordinator::log::{Block, BlockHeader, BlockKind, Checksum};
use unanimity_core::{Event, Persistence};
use unanimity_types::{Epoch, PartitionId, Seq, Timestamp};

use crate::cases;
use crate::dice::xid;
use crate::machine::play;

fn block(body: Bytes) -> Block {
    let header = BlockHeader {
        kind: BlockKind::Data,
        partition: PartitionId(0),
        seq: Seq(7),
        epoch: Epoch(1),
        floor: Seq(0),
        time: Timestamp(1_000_000),
        previous: Checksum::default(),
    };
    Block::new(header, body)
}

/// A block of events that can have happened.
fn valid(bytes: &[u8]) -> (Block, Vec<(Timestamp, Event)>) {
    let (state, events) = play(bytes);
    let mut body = BodyWriter::default();
    body.start(Timestamp(1_000_000));
    let mut written: Vec<_> =
        events.into_iter().filter(|(_, event)| event.persistence() != Persistence::Volatile).collect();
    if let Some(known) = state {
        let at = written.last().map_or(Timestamp(1_000_000), |(at, _)| *at);
        written.push((at, Event::Snapshot(Box::new(known.durable()))));
    }
    for (at, event) in &written {
        assert!(body.event(xid(), *at, event).is_some(), "it can be written");
    }
    (block(body.finish()), written)
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn any_bytes_are_a_block_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..400), version in 0u16..5) {
        let mut block = block(body.into());
        block.version = version;
        let _ = decode(&block);
        let _ = block.valid_since();
        let _ = block.closed_since();
    }

    #[test]
    fn what_was_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (block, events) = valid(&bytes);
        prop_assert!(block.verify().is_ok());
        let read = decode(&block).expect("it was written just now");
        prop_assert_eq!(read.len(), events.len());
        for (logged, (at, event)) in read.iter().zip(&events) {
            prop_assert_eq!(logged.at, *at);
            prop_assert!(matches!(&logged.what, LoggedEvent::Transaction(of, _) if *of == xid()));
            if !matches!(event, Event::AttemptFailed { .. }) {
                prop_assert_eq!(&logged.what, &LoggedEvent::Transaction(xid(), event.clone()));
            }
        }
    }

    #[test]
    fn a_changed_block_is_found_out_and_harms_nobody(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (valid, _) = valid(&bytes);
        let mut body = valid.body.to_vec();
        prop_assume!(!body.is_empty());
        for (at, byte) in changes {
            let place = at.index(body.len());
            body[place] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        prop_assume!(body != valid.body);
        let changed = Block { body: body.into(), ..valid };
        prop_assert!(changed.verify().is_err(), "the checksum is over the body");
        // Whoever reads it all the same gets events or an error.
        let _ = decode(&changed);
    }

    #[test]
    fn a_changed_header_is_found_out(bytes in proptest::collection::vec(any::<u8>(), 0..40), field in 0u8..8, by in 1u64..) {
        let (valid, _) = valid(&bytes);
        let mut changed = valid.clone();
        match field {
            0 => changed.version = changed.version.wrapping_add((by % 65_535) as u16 + 1),
            1 => changed.kind = BlockKind::Closing,
            2 => changed.partition = PartitionId((by % 65_535) as u16 + 1),
            3 => changed.seq = Seq(7u64.wrapping_add(by)),
            4 => changed.epoch = Epoch(1u64.wrapping_add(by)),
            5 => changed.floor = Seq(by),
            6 => changed.time = Timestamp(1_000_000u64.wrapping_add(by)),
            _ => changed.previous.0[(by % 16) as usize] ^= (by % 255) as u8 + 1,
        }
        prop_assume!(changed != valid);
        prop_assert!(changed.verify().is_err());
    }
}
