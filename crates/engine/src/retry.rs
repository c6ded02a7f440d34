//! The pause before another attempt: exponential, with full jitter that is the same whenever it is computed.

use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::playbook::Retry;

/// The pause after `failed` attempts (from 1) of `what` in `run`: between nothing and a bound that doubles up to the cap.
pub fn pause(retry: &Retry, run: Uuid, what: &str, failed: u32) -> Duration {
    let doubled = retry.first.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1)));
    let digest = Sha256::digest(format!("{run}\u{1f}{what}\u{1f}{failed}"));
    let fraction = f64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])) / f64::from(u32::MAX);
    doubled.min(retry.cap).mul_f64(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_a_doubling_bound_and_never_change() {
        let retry = Retry { attempts: 9, first: Duration::from_secs(2), cap: Duration::from_secs(30) };
        let mut sum = Duration::ZERO;
        for number in 0..100 {
            let run = Uuid::from_u128(number);
            for (failed, bound) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (60, 30)] {
                let pause = pause(&retry, run, "apply[a]", failed);
                assert!(pause <= Duration::from_secs(bound));
                assert_eq!(pause, super::pause(&retry, run, "apply[a]", failed));
            }
            sum += pause(&retry, run, "apply[a]", 5);
        }
        // Full jitter: half of the bound on average.
        assert!((12..18).contains(&(sum / 100).as_secs()), "{sum:?}");
    }
}
