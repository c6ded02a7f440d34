//! One reading for all who ask at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Mutex;

/// A reading that is costly, wanted by many, and the same for all of them. Whoever asks gets one that began after they
/// asked: those who come while one is on its way share the next, also when it fails. So a server that hangs keeps
/// nobody waiting longer than two readings.
#[derive(Debug)]
pub struct Coalesced<T: ?Sized, E> {
    asked: AtomicU64,
    last: Mutex<Option<Reading<T, E>>>,
}

/// Everybody whose number is below `serves` had asked when it began.
#[derive(Debug)]
struct Reading<T: ?Sized, E> {
    serves: u64,
    found: Result<Arc<T>, E>,
}

impl<T: ?Sized, E> Default for Coalesced<T, E> {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), last: Mutex::default() }
    }
}

impl<T: ?Sized, E: Clone> Coalesced<T, E> {
    /// What `read` finds, or what it found for somebody else since this was called.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read(&self, read: impl AsyncFnOnce() -> Result<Arc<T>, E>) -> Result<Arc<T>, E> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some(reading) = last.as_ref().filter(|reading| reading.serves > number) {
            let found = reading.found.clone();
            // Nobody else waits for it.
            if reading.serves == number + 1 {
                *last = None;
            }
            return found;
        }
        let serves = self.asked.load(Ordering::SeqCst);
        let found = read().await;
        *last = (serves > number + 1).then(|| Reading { serves, found: found.clone() });
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::{sync::Semaphore, time::timeout};

    use super::*;

    /// Readings find their number; those of which `fails` says so fail with it.
    struct Source {
        coalesced: Coalesced<u64, u64>,
        count: AtomicU64,
        go: Semaphore,
        fails: fn(u64) -> bool,
    }

    impl Source {
        fn new(fails: fn(u64) -> bool) -> Self {
            Self { coalesced: Coalesced::default(), count: AtomicU64::new(0), go: Semaphore::new(0), fails }
        }

        async fn ask(&self) -> Result<u64, u64> {
            let read = async || {
                self.go.acquire().await.unwrap().forget();
                let number = self.count.fetch_add(1, Ordering::SeqCst);
                if (self.fails)(number) { Err(number) } else { Ok(Arc::new(number)) }
            };
            self.coalesced.read(read).await.map(|found| *found)
        }

        /// One asks, then ten others while it reads.
        async fn ask_eleven_times(&self) -> (Result<u64, u64>, Vec<Result<u64, u64>>) {
            let others = async {
                let asked = join_all((0..10).map(|_| self.ask()));
                self.go.add_permits(2);
                asked.await
            };
            tokio::join!(self.ask(), others)
        }
    }

    #[tokio::test]
    async fn those_who_ask_while_one_reads_share_the_next_reading() {
        let source = Source::new(|_| false);
        assert_eq!(source.ask_eleven_times().await, (Ok(0), vec![Ok(1); 10]));
        assert!(source.coalesced.last.lock().await.is_none(), "nothing is kept that nobody waits for");
        source.go.add_permits(1);
        assert_eq!(source.ask().await, Ok(2), "a later one reads anew");
    }

    #[tokio::test]
    async fn a_failure_is_shared_like_a_finding_and_read_again_by_the_next() {
        let source = Source::new(|number| number == 1);
        assert_eq!(source.ask_eleven_times().await, (Ok(0), vec![Err(1); 10]));
        source.go.add_permits(1);
        assert_eq!(source.ask().await, Ok(2));
    }

    #[tokio::test]
    async fn a_reader_that_gives_up_leaves_the_reading_to_the_next() {
        let source = Source::new(|_| false);
        assert!(timeout(Duration::from_millis(1), source.ask()).await.is_err());
        source.go.add_permits(1);
        assert_eq!(source.ask().await, Ok(0));
    }
}
