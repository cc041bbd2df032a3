//! Processes that die. A process is a runtime of its own: when it dies, its tasks, sockets, pools and
//! whatever it knew are gone, at the very point where it was waiting. What it had asked others to do may
//! still happen, as after `kill -9`.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use dayfly::ledger::Ledger;

use super::gated::{Gate, Gated};

/// A future that is never asked again after it waited for the `last`-th time.
pub(crate) struct Mortal<F> {
    life: Pin<Box<F>>,
    waits: usize,
    last: usize,
}

impl<F: Future> Mortal<F> {
    pub(crate) fn new(life: F, last: usize) -> Self {
        Self {
            life: Box::pin(life),
            waits: 0,
            last,
        }
    }
}

impl<F: Future> Future for Mortal<F> {
    /// `None` when it died.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.life.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                self.waits += 1;
                if self.waits >= self.last {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                }
            }
        }
    }
}

/// A future, and what happens beside it each time that it waits: from the number of the time on, whether it
/// goes on.
pub(crate) struct Beside<F, H> {
    life: Pin<Box<F>>,
    waits: usize,
    happens: H,
}

impl<F: Future, H: FnMut(usize) -> ControlFlow<()>> Beside<F, H> {
    pub(crate) fn new(life: F, happens: H) -> Self {
        Self {
            life: Box::pin(life),
            waits: 0,
            happens,
        }
    }
}

impl<F: Future, H: FnMut(usize) -> ControlFlow<()> + Unpin> Future for Beside<F, H> {
    /// `None` when it died; and how often it waited.
    type Output = (Option<F::Output>, usize);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.life.as_mut().poll(cx);
        if let Poll::Ready(output) = polled {
            return Poll::Ready((Some(output), self.waits));
        }
        self.waits += 1;
        let waits = self.waits;
        match (self.happens)(waits) {
            ControlFlow::Continue(()) => Poll::Pending,
            ControlFlow::Break(()) => Poll::Ready((None, waits)),
        }
    }
}

/// Runs a life in a process of its own, which is gone afterwards.
pub(crate) fn process<F: Future>(life: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let output = runtime.block_on(life());
    runtime.shutdown_background();
    output
}

/// Waits once before each call and once after it, so that there is a point to die at around calls that
/// never wait themselves.
pub(crate) struct Waiting;

#[async_trait]
impl Gate for Waiting {
    async fn before(&self, _: &'static str) {
        tokio::task::yield_now().await;
    }

    async fn after(&self, _: &'static str) {
        tokio::task::yield_now().await;
    }
}

/// A ledger with a point to die at before and after each step.
pub(crate) fn waiting(ledger: Arc<dyn Ledger>) -> Arc<dyn Ledger> {
    let gate = Arc::new(Waiting);
    Arc::new(Gated { ledger, gate })
}
