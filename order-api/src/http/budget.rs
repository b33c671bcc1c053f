//! How much of requests an instance holds at once, in bytes of their bodies: many large orders at once wait their turn
//! outside, instead of filling the memory.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use runtime::wake::{UntilDropped, wait_for_drop};

/// The longest body of a request, in bytes: room for 1,000 items of the longest identifiers, three times.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// A number of bytes that requests share, first come, first served.
pub struct BodyBudget {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Waiting>>,
}

struct Waiting {
    bytes: usize,
    is_granted: Rc<Cell<bool>>,
    _until_granted: UntilDropped,
}

/// Too many requests wait already.
#[derive(Debug)]
pub struct BudgetExhausted;

impl BodyBudget {
    /// What an instance holds at once: room for some hundred of the largest bodies. The orders read from them, and the
    /// answers, take three times as much again.
    pub const BYTES: usize = 16 * 1024 * 1024;
    /// How many requests wait for room before further ones are refused.
    pub const MAX_WAITING: usize = 500;

    /// All of it is free.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { free: Cell::new(Self::BYTES), waiting: RefCell::default() })
    }

    /// Waits for `bytes` bytes, at most [`Self::BYTES`].
    pub async fn reserve(self: &Rc<Self>, bytes: usize) -> Result<Reservation, BudgetExhausted> {
        let bytes = bytes.min(Self::BYTES);
        if self.waiting.borrow().is_empty() && self.free.get() >= bytes {
            self.free.set(self.free.get() - bytes);
            return Ok(Reservation { budget: self.clone(), bytes });
        }
        if self.waiting.borrow().len() >= Self::MAX_WAITING {
            return Err(BudgetExhausted);
        }
        let (until_granted, granted) = wait_for_drop();
        let is_granted = Rc::new(Cell::new(false));
        let waiting = Waiting { bytes, is_granted: is_granted.clone(), _until_granted: until_granted };
        self.waiting.borrow_mut().push_back(waiting);
        let place = Place { budget: self, bytes, is_granted };
        granted.await;
        Ok(place.taken())
    }

    fn release(&self, bytes: usize) {
        self.free.set(self.free.get() + bytes);
        debug_assert!(self.free.get() <= Self::BYTES);
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let Some(next) = waiting.pop_front_if(|next| next.bytes <= self.free.get()) else { return };
            drop(waiting);
            self.free.set(self.free.get() - next.bytes);
            next.is_granted.set(true);
        }
    }
}

/// The place of a request that waits.
struct Place<'a> {
    budget: &'a Rc<BodyBudget>,
    bytes: usize,
    is_granted: Rc<Cell<bool>>,
}

impl Place<'_> {
    fn taken(self) -> Reservation {
        debug_assert!(self.is_granted.get());
        self.is_granted.set(false);
        Reservation { budget: self.budget.clone(), bytes: self.bytes }
    }
}

impl Drop for Place<'_> {
    /// A request that goes away while it waits leaves its place, or what it was granted a moment ago.
    fn drop(&mut self) {
        self.budget.waiting.borrow_mut().retain(|waiting| !Rc::ptr_eq(&waiting.is_granted, &self.is_granted));
        if self.is_granted.get() {
            self.budget.release(self.bytes);
        }
    }
}

/// Bytes that a request has; they are free again when this is dropped.
pub struct Reservation {
    budget: Rc<BodyBudget>,
    bytes: usize,
}

impl Reservation {
    /// Keeps `bytes` of it.
    pub fn shrink_to(&mut self, bytes: usize) {
        let released = self.bytes.saturating_sub(bytes);
        self.bytes -= released;
        self.budget.release(released);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}
