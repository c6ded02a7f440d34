//! One reading for all who ask at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Mutex;

/// A reading that is costly, wanted by many, and the same for all of them. Whoever asks gets one that began after they
/// asked: those who come while one is on its way share the next.
#[derive(Debug)]
pub struct Coalesced<T: ?Sized> {
    asked: AtomicU64,
    last: Mutex<Option<Reading<T>>>,
}

/// Everybody whose number is below `serves` had asked when it began.
#[derive(Debug)]
struct Reading<T: ?Sized> {
    serves: u64,
    read: Arc<T>,
}

impl<T: ?Sized> Default for Coalesced<T> {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), last: Mutex::default() }
    }
}

impl<T: ?Sized> Coalesced<T> {
    /// What `read` finds, or what it found for somebody else since this was called. An error is for one caller alone: the
    /// next one reads again.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read<E>(&self, read: impl AsyncFnOnce() -> Result<Arc<T>, E>) -> Result<Arc<T>, E> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some(reading) = last.as_ref().filter(|reading| reading.serves > number) {
            let shared = Arc::clone(&reading.read);
            // Nobody else waits for it.
            if reading.serves == number + 1 {
                *last = None;
            }
            return Ok(shared);
        }
        let serves = self.asked.load(Ordering::SeqCst);
        let found = read().await?;
        *last = (serves > number + 1).then(|| Reading { serves, read: Arc::clone(&found) });
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_while_one_reads_share_the_next_reading() {
        let (coalesced, count, go) = (Coalesced::default(), AtomicU64::new(0), Semaphore::new(0));
        let ask = async || {
            let read = async || {
                go.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Arc::new(count.fetch_add(1, Ordering::SeqCst)))
            };
            *coalesced.read(read).await.unwrap()
        };
        let others = async {
            // The first one has begun to read when these ask.
            let asked = join_all((0..10).map(|_| ask()));
            go.add_permits(2);
            asked.await
        };
        let (first, others) = tokio::join!(ask(), others);
        assert_eq!((first, others), (0, vec![1; 10]));
        assert!(coalesced.last.lock().await.is_none(), "nothing is kept that nobody waits for");
        go.add_permits(1);
        assert_eq!(ask().await, 2, "a later one reads anew");
    }

    #[tokio::test]
    async fn an_error_or_a_reader_that_gives_up_does_not_harm_the_others() {
        let (coalesced, count) = (Coalesced::default(), AtomicU64::new(0));
        let ask = async || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            coalesced.read(async || if number == 0 { Err("no") } else { Ok(Arc::new(number)) }).await
        };
        let given_up = coalesced.read(std::future::pending::<Result<Arc<u64>, &str>>);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), given_up).await.is_err());
        let answers = join_all((0..3).map(|_| ask())).await;
        assert_eq!(answers[0], Err("no"));
        assert!(answers[1..].iter().all(Result::is_ok), "{answers:?}");
    }
}
