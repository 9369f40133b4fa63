//! From an xid to the partition that owns it.

use crate::id::Xid;
use crate::position::PartitionId;

/// How many slots there are, for ever: the first 12 bits of a hash (protocol M17).
pub const SLOTS: u16 = 4_096;

/// The slot of an xid: the first 12 bits of its two halves mixed by `SplitMix64`'s finalizer
/// (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
///
/// Mixed because UUIDs of version 7 begin with a clock: their own first bits are alike.
#[must_use]
pub fn slot_of(xid: Xid) -> u16 {
    let (high, low) = xid.uuid().as_u64_pair();
    let hash = mix(high ^ mix(low));
    // The shift leaves 12 bits.
    (hash >> 52) as u16
}

/// The partition that owns a slot when there are `partitions` of them: each owns a contiguous range.
///
/// # Panics
/// If `partitions` is 0 or more than [`SLOTS`]; configuration is checked before.
#[must_use]
pub fn partition_of(xid: Xid, partitions: u16) -> PartitionId {
    assert!(partitions > 0 && partitions <= SLOTS, "a log has 1 to {SLOTS} partitions");
    let slot = u32::from(slot_of(xid));
    // Smaller than `partitions`, since slot < SLOTS.
    PartitionId((slot * u32::from(partitions) / u32::from(SLOTS)) as u16)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn m17_slots_are_fixed_for_ever() {
        // A change of these numbers would send running transactions to the wrong partition.
        let xid: Xid = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f".parse().expect("valid");
        assert_eq!(slot_of(xid), 254);
        let xid: Xid = "ffffffff-ffff-4fff-bfff-ffffffffffff".parse().expect("valid");
        assert_eq!(slot_of(xid), 3_580);
    }

    #[test]
    fn every_partition_gets_its_share() {
        let mut counts = [0u32; 16];
        for n in 1..=16_000u128 {
            counts[usize::from(partition_of(Xid::new(Uuid::from_u128(n << 64 | 7)), 16).0)] += 1;
        }
        for count in counts {
            assert!((800..1_200).contains(&count), "{counts:?}");
        }
    }
}
