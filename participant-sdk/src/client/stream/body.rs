//! The body of a command stream's request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use unanimity_proto::v1;

use super::{BATCH_BYTES_MAX, Queued, Shared};

/// Commands in one message: more saves nothing any more.
const BATCH_COMMANDS_MAX: usize = 64;

/// The request's body: a message whenever there is something in the queue and the connection takes it.
pub(super) struct Body {
    pub(super) shared: Arc<Shared>,
    pub(super) turn: u64,
    /// Whoever else was ready to run had its turn since the queue was found empty.
    pub(super) gathered: bool,
}

impl Stream for Body {
    type Item = v1::CommandBatch;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::CommandBatch>> {
        let this = self.get_mut();
        let mut guard = this.shared.lock();
        let state = &mut *guard;
        if state.turn != this.turn {
            return Poll::Ready(None);
        }
        if state.queue.is_empty() {
            this.gathered = false;
            state.wait(cx);
            return Poll::Pending;
        }
        if !this.gathered && state.queue.len() < BATCH_COMMANDS_MAX {
            // The runtime lets us run right after the first caller. Those who are ready to run beside it ask
            // before we are back, and go into the same message.
            this.gathered = true;
            drop(guard);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.gathered = false;
        let mut commands = Vec::with_capacity(state.queue.len().min(BATCH_COMMANDS_MAX));
        let mut bytes = 0;
        while commands.len() < BATCH_COMMANDS_MAX
            && let Some(next) = state.queue.front()
            && (commands.is_empty() || bytes + next.bytes <= BATCH_BYTES_MAX)
            && let Some(Queued { command, bytes: more, asker }) = state.queue.pop_front()
        {
            if asker.answer.is_closed() {
                continue;
            }
            bytes += more;
            state.in_hand.insert(command.id, asker);
            commands.push(command);
        }
        if commands.is_empty() {
            state.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Some(v1::CommandBatch { commands }))
    }
}
