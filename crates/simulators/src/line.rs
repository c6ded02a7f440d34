//! The line that a connection hangs on: a planned fault breaks it in the middle of an answer, as a power cut would.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Frame};
use tokio_util::sync::CancellationToken;

/// The line of one connection; clones are the same line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    broken: CancellationToken,
}

impl Line {
    /// Serves a connection to its end; none if the line broke before. What the connection was given until then leaves,
    /// and nothing after it, not even a word of goodbye.
    pub(crate) async fn serve<T>(&self, connection: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            // It is asked first, so that it sends what it has.
            biased;
            ended = connection => Some(ended),
            () = self.broken.cancelled() => None,
        }
    }

    /// Breaks. Never returns: whoever answers on this line ends with it.
    pub(crate) async fn cut<T>(&self) -> T {
        self.broken.cancel();
        std::future::pending().await
    }

    /// The same body, in whose middle the line breaks.
    pub(crate) fn breaking<B>(&self, body: B, frames: u64) -> Breaking<B> {
        Breaking { body, left: frames, line: self.clone() }
    }
}

/// A body that breaks its line after so many frames of data, at the latest where it would end.
pub(crate) struct Breaking<B> {
    body: B,
    left: u64,
    line: Line,
}

impl<B: Body + Unpin> Body for Breaking<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        if this.left > 0 {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => {
                    this.left -= 1;
                    return Poll::Ready(Some(Ok(frame)));
                }
                _ => this.left = 0,
            }
        }
        // Asked for more, it has handed over what came before.
        this.line.broken.cancel();
        Poll::Pending
    }
}
