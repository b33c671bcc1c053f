//! How many orders the processor gets at once: as many as it gets through well within their lease.

/// The size of batches. It follows what the processor's calls have taken, so that a slow processor, which may do one
/// order after the other, gets few, and a quick one many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    size: u32,
    max: u32,
    /// What a call should take at most, in milliseconds.
    target_ms: u64,
}

impl BatchSize {
    /// The most orders in a batch, whatever the variable `max_batch` says; the interface of processors promises it.
    pub const MAX: u32 = 1_000;
    /// The part of a lease that a call should take at most: a call that takes three times as long as calls before it is
    /// still in time.
    const PART_OF_LEASE: u64 = 4;
    /// The size while nothing is known: few enough for a processor that takes two seconds for each within the default
    /// lease, and so many that orders on which it hangs, each of which costs a call, do not hold up the others for long.
    const FIRST: u32 = 16;
    /// The size that losses reduce batches to.
    const LEAST_AFTER_LOSS: u32 = 4;
    /// What a call should take at most however long leases are, in milliseconds: well within the time that the host gives
    /// a call of a trigger.
    const MAX_TARGET_MS: u64 = 10_000;
    /// How fast batches grow while calls end early: a few orders tell little about a thousand.
    const GROWTH: u32 = 8;

    /// Goes on from `known`, where there is one; up to `max`, for leases of `lease_ms`.
    pub fn new(known: Option<u32>, max: u32, lease_ms: u64) -> Self {
        let max = max.clamp(1, Self::MAX);
        Self {
            size: known.unwrap_or(Self::FIRST).clamp(1, max),
            max,
            target_ms: (lease_ms / Self::PART_OF_LEASE).clamp(1, Self::MAX_TARGET_MS),
        }
    }

    /// How many orders the next batch may have, 1 or more.
    pub fn get(self) -> u32 {
        self.size
    }

    /// Learns that a call with `orders` orders took `millis` milliseconds.
    pub fn learn(&mut self, orders: usize, millis: u64) {
        let orders = u32::try_from(orders).unwrap_or(u32::MAX).max(1);
        let fitting = u64::from(orders).saturating_mul(self.target_ms) / millis.max(1);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX).clamp(1, self.max);
        if millis > self.target_ms {
            self.size = fitting.min(self.size);
        } else if orders >= self.size {
            // Only a full batch tells that more would fit.
            self.size = fitting.min(self.size.saturating_mul(Self::GROWTH));
        }
    }

    /// Learns that a call did not return in time. Nobody knows how long it would have taken, or whether one order was
    /// what it hung on: orders that bring workers down are to be got through, a few with each tick.
    pub fn learn_of_loss(&mut self) {
        self.size = self.size.min((self.size / 2).max(Self::LEAST_AFTER_LOSS));
    }

    /// Whether it differs so much from `other` that it is worth remembering.
    pub fn differs_from(self, other: Option<u32>) -> bool {
        other.is_none_or(|other| self.size < other - other / 4 || self.size > other + other / 4)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE_MS: u64 = 30_000;

    /// The sizes of the batches that a processor gets which takes so long for each order.
    fn sizes(micros_per_order: u64, batches: usize) -> Vec<u32> {
        let mut size = BatchSize::new(None, BatchSize::MAX, LEASE_MS);
        let batch = || {
            let now = size.get();
            size.learn(now as usize, u64::from(now) * micros_per_order / 1_000);
            now
        };
        std::iter::repeat_with(batch).take(batches).collect()
    }

    #[test]
    fn a_quick_processor_soon_gets_full_batches_and_a_slow_one_never() {
        assert_eq!(sizes(0, 4), [16, 128, 1_000, 1_000]);
        assert_eq!(sizes(500_000, 4), [16, 15, 15, 15]);
        assert_eq!(sizes(20_000_000, 3), [16, 1, 1]);
    }

    #[test]
    fn a_processor_that_slows_down_gets_less_at_once() {
        let mut size = BatchSize::new(Some(1_000), BatchSize::MAX, LEASE_MS);
        size.learn(1_000, 25_000);
        assert_eq!(size.get(), 300);
        // A batch that was not full tells nothing about a fuller one, unless it took too long.
        size.learn(3, 1);
        assert_eq!(size.get(), 300);
        size.learn(3, 9_000);
        assert_eq!(size.get(), 2);
    }

    #[test]
    fn small_differences_are_not_worth_remembering() {
        let size = |size| BatchSize::new(Some(size), BatchSize::MAX, LEASE_MS);
        assert!(size(100).differs_from(None));
        assert!(size(100).differs_from(Some(200)));
        assert!(size(2).differs_from(Some(1)));
        assert!(!size(100).differs_from(Some(110)));
    }

    proptest! {
        /// Once a full call has been seen, calls keep to their part of the lease as long as orders take the same time.
        #[test]
        fn calls_end_well_within_the_lease(ms_per_order in 0u64..7_500, max in 1u32..=1_000, lease_ms in 1_000u64..3_600_000) {
            prop_assume!(ms_per_order <= (lease_ms / 4).min(10_000));
            let mut size = BatchSize::new(None, max, lease_ms);
            size.learn(size.get() as usize, u64::from(size.get()) * ms_per_order);
            for _ in 0..20 {
                let orders = size.get();
                prop_assert!((1..=max).contains(&orders));
                let took = u64::from(orders) * ms_per_order;
                prop_assert!(took <= (lease_ms / 4).min(10_000), "{orders} orders take {took} of {lease_ms} ms");
                size.learn(orders as usize, took);
            }
        }
    }
}
