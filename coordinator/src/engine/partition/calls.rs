//! The calls that are out at participants. Each brings back one result, and what comes besides counts for nothing: a second
//! answer to an attempt would be taken for the answer to the next one, which still runs (protocol H3).

use std::collections::HashMap;

use unanimity_types::{BranchId, Operation, Xid};

use crate::engine::dispatch::{BranchCall, BranchReply};
use crate::entropy::HashState;

type Key = (Xid, BranchId, Operation, u32);

/// Calls whose results are to come.
#[derive(Debug, Default)]
pub(super) struct CallsOut {
    /// How many of each: an operator's retry counts a parked branch's attempts from 1 again.
    out: HashMap<Key, u32, HashState>,
    count: usize,
}

impl CallsOut {
    pub(super) fn goes(&mut self, call: &BranchCall) {
        self.goes_as(call.xid, call.branch_id, call.operation, call.attempt);
    }

    pub(super) fn goes_as(&mut self, xid: Xid, branch_id: BranchId, operation: Operation, attempt: u32) {
        *self.out.entry((xid, branch_id, operation, attempt)).or_default() += 1;
        self.count += 1;
    }

    /// Whether a call was out that this is the result of. It is not out any more.
    pub(super) fn returns(&mut self, reply: &BranchReply) -> bool {
        let key = (reply.xid, reply.branch_id, reply.operation, reply.attempt);
        let Some(times) = self.out.get_mut(&key) else { return false };
        *times -= 1;
        if *times == 0 {
            self.out.remove(&key);
        }
        self.count -= 1;
        true
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }
}
