//! A connection that an instance opens once, and that its requests share.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use order_core::store::{Store, StoreError};
use runtime::wake::{UntilDropped, wait_for_drop};

/// A place for one connection. Of the requests that come together while it is empty, one opens the connection and the
/// others share what it gets: a thousand requests to a new instance would open a thousand otherwise.
#[derive(Default)]
pub struct SharedConnection(RefCell<Option<Rc<Opening>>>);

type Opened = Result<Rc<dyn Store>, StoreError>;

#[derive(Default)]
struct Opening {
    opened: OnceCell<Opened>,
    waiting: RefCell<Vec<UntilDropped>>,
}

impl SharedConnection {
    /// The connection that is there, or the one that `open` opens.
    ///
    /// # Errors
    /// Those of `open`. The place is empty then, and the next request tries anew.
    pub async fn get(&self, open: impl AsyncFn() -> Opened) -> Opened {
        loop {
            let (opening, is_mine) = {
                let mut place = self.0.borrow_mut();
                let is_mine = place.is_none();
                (place.get_or_insert_default().clone(), is_mine)
            };
            if is_mine {
                let _end = End { place: self, opening: &opening };
                let opened = open().await;
                return opening.opened.get_or_init(|| opened).clone();
            }
            if opening.opened.get().is_none() {
                let (until_dropped, dropped) = wait_for_drop();
                opening.waiting.borrow_mut().push(until_dropped);
                dropped.await;
            }
            if let Some(opened) = opening.opened.get() {
                return opened.clone();
            }
            // The request that opened it was cancelled.
        }
    }

    /// Empties the place: the next request opens a connection anew.
    pub fn forget(&self) {
        self.0.take();
    }
}

/// The end of an opening, also when it is cancelled.
struct End<'a> {
    place: &'a SharedConnection,
    opening: &'a Rc<Opening>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if !matches!(self.opening.opened.get(), Some(Ok(_))) {
            // What another request has opened meanwhile stays.
            self.place.0.borrow_mut().take_if(|opening| Rc::ptr_eq(opening, self.opening));
        }
        self.opening.waiting.take();
    }
}
