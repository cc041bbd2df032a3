//! Work that is finished whoever goes away.
//!
//! Between a step of the ledger and its record nobody may drop a use-case. It runs in the task of its
//! request; when the client goes away or the time is up, what is left of it goes on by itself. A task
//! for each from the beginning would be safe too, and copy each use-case a dozen times on its way there.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument, Span};

use super::gate::Place;

/// A use-case under way. Its answer is for whoever awaits it; dropped before that, it goes on without.
pub(super) struct Finishing<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// On the heap: moving it there and on costs a pointer.
    work: Option<Pin<Box<F>>>,
    /// Taken up for as long as the work lasts.
    place: Option<Place>,
    runtime: Handle,
    /// Whoever stops Dayfly waits for the work from its beginning.
    tracked: TaskTrackerToken,
}

impl<F> Finishing<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// Takes the work on. To be called in a runtime, on which the work goes on should it have to.
    pub(super) fn new(work: F, place: Option<Place>, tracker: &TaskTracker) -> Self {
        Self {
            work: Some(Box::pin(work)),
            place,
            runtime: Handle::current(),
            tracked: tracker.token(),
        }
    }
}

impl<F> Future for Finishing<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out meanwhile, so that work that panics is not polled again.
        let Some(mut work) = self.work.take() else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F> Drop for Finishing<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        let Some(work) = self.work.take() else {
            return;
        };
        let place = mem::take(&mut self.place);
        let rest = async move {
            let _nobody_asks = work.await;
            drop(place);
        };
        let tracker = self.tracked.task_tracker();
        tracker.spawn_on(rest.instrument(Span::current()), &self.runtime);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Notify, Semaphore, oneshot};

    use super::*;

    #[tokio::test]
    async fn work_is_finished_when_nobody_waits_any_more() {
        let (tracker, go) = (TaskTracker::new(), Arc::new(Notify::new()));
        let (done, outcome) = oneshot::channel();
        let gone = go.clone();
        let work = async move {
            gone.notified().await;
            done.send("done").unwrap();
        };
        let mut finishing = Box::pin(Finishing::new(work, None, &tracker));
        assert!(futures_util::poll!(finishing.as_mut()).is_pending());
        drop(finishing);
        tracker.close();
        go.notify_one();
        tracker.wait().await;
        assert_eq!(outcome.await, Ok("done"));
    }

    #[tokio::test]
    async fn whoever_stops_waits_for_work_from_its_beginning() {
        let tracker = TaskTracker::new();
        tracker.close();
        let finishing = Finishing::new(async { 7 }, None, &tracker);
        assert!(!tracker.is_empty());
        assert_eq!(finishing.await, 7);
        assert!(tracker.is_empty());
    }

    #[tokio::test]
    async fn the_place_is_kept_until_the_end() {
        let (tracker, places) = (TaskTracker::new(), Arc::new(Semaphore::new(1)));
        let go = Arc::new(Notify::new());
        let place = Place::of(places.clone().try_acquire_owned().unwrap());
        let gone = go.clone();
        let mut finishing = Box::pin(Finishing::new(
            async move { gone.notified().await },
            Some(place),
            &tracker,
        ));
        assert!(futures_util::poll!(finishing.as_mut()).is_pending());
        drop(finishing);
        assert_eq!(places.available_permits(), 0);
        go.notify_one();
        tracker.close();
        tracker.wait().await;
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn work_that_panicked_is_not_taken_up_again() {
        let tracker = TaskTracker::new();
        let finishing = Finishing::new(async { panic!("for the test") }, None, &tracker);
        let broken = tracker.spawn(finishing).await;
        assert!(broken.unwrap_err().is_panic());
        assert!(tracker.is_empty());
    }
}
