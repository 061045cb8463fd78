//! Who goes first when very many nodes come at once. What takes processor time or memory for each of them is done for few
//! of them at a time, in the order in which they asked; the others wait where waiting costs next to nothing.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// A number of places, and how long one may be had.
pub struct Turns {
    places: Arc<Semaphore>,
    lasts: Duration,
}

/// A place. It is free again when this is dropped.
pub struct Turn {
    place: Option<OwnedSemaphorePermit>,
    lasts: Duration,
}

/// A place that was asked for.
pub type Asked = Pin<Box<dyn Future<Output = Turn> + Send + Sync>>;

/// Waits for the place that was asked for, forever where none was. Cancelling this loses nothing.
pub async fn answer(asked: &mut Option<Asked>) -> Turn {
    let Some(waiting) = asked else { return std::future::pending().await };
    let turn = waiting.await;
    *asked = None;
    turn
}

impl Turns {
    pub fn new(places: usize, lasts: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), lasts }
    }

    /// Waits for a place. Whoever stops waiting and asks again is last.
    pub fn ask(&self) -> Asked {
        let (places, lasts) = (Arc::clone(&self.places), self.lasts);
        Box::pin(async move { Turn { place: places.acquire_owned().await.ok(), lasts } })
    }
}

impl Turn {
    /// Does `work` in this place. What takes longer than a turn lasts waits for its node, and goes on without a place: a slow
    /// node holds up nobody.
    pub async fn take<T>(self, work: impl Future<Output = T>) -> T {
        let Self { place, lasts } = self;
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(lasts) => drop(place),
        }
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn they_go_one_after_the_other_and_nobody_is_held_up_for_long() {
        let turns = Turns::new(1, Duration::from_millis(20));
        let first = turns.ask().await;
        let (mut second, mut third) = (turns.ask(), turns.ask());
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        let stalled = tokio::spawn(first.take(pending::<()>()));
        let second = second.await;
        assert!((&mut third).now_or_never().is_none() && !stalled.is_finished());
        assert_eq!(second.take(async { 7 }).await, 7);
        third.await;
        stalled.abort();
    }
}
