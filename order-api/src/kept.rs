//! A connection that an instance opens once, and that its requests share.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::thread::LocalKey;

use order_core::sqlite::SqliteStore;
use order_core::store::StoreError;

use crate::runtime::{self, UntilDropped};

/// A place for one connection. Of the requests that come together to an empty one, one opens the connection and the
/// others share the outcome: a thousand requests to a new instance would open a thousand otherwise.
pub struct Kept<C>(RefCell<Option<Rc<Opening<C>>>>);

type Opened<C> = Result<Rc<SqliteStore<C>>, StoreError>;

struct Opening<C> {
    outcome: OnceCell<Opened<C>>,
    waiting: RefCell<Vec<UntilDropped>>,
}

impl<C: 'static> Kept<C> {
    /// An empty place.
    pub const fn nothing() -> Self {
        Self(RefCell::new(None))
    }

    /// The connection that is there, or the one that `open` opens.
    ///
    /// # Errors
    /// Those of `open`. The place is empty then, and the next request tries anew.
    pub async fn or_open(
        place: &'static LocalKey<Self>,
        open: impl AsyncFn() -> Result<SqliteStore<C>, StoreError>,
    ) -> Opened<C> {
        loop {
            let (opening, is_mine) = place.with(|place| {
                let mut place = place.0.borrow_mut();
                let is_mine = place.is_none();
                let new = || Rc::new(Opening { outcome: OnceCell::new(), waiting: RefCell::default() });
                (place.get_or_insert_with(new).clone(), is_mine)
            });
            if is_mine {
                let _end = End { place, opening: &opening };
                let outcome = open().await.map(Rc::new);
                return opening.outcome.get_or_init(|| outcome).clone();
            }
            if opening.outcome.get().is_none() {
                let (until_dropped, dropped) = runtime::wait_for_drop();
                opening.waiting.borrow_mut().push(until_dropped);
                dropped.await;
            }
            if let Some(outcome) = opening.outcome.get() {
                return outcome.clone();
            }
            // The request that opened it was cancelled.
        }
    }

    /// Empties the place: the next request opens a connection anew.
    pub fn forget(place: &'static LocalKey<Self>) {
        place.with(|place| place.0.take());
    }
}

/// The end of an opening, also when it is cancelled.
struct End<'a, C: 'static> {
    place: &'static LocalKey<Kept<C>>,
    opening: &'a Rc<Opening<C>>,
}

impl<C> Drop for End<'_, C> {
    fn drop(&mut self) {
        if !matches!(self.opening.outcome.get(), Some(Ok(_))) {
            // What another one has opened meanwhile stays.
            self.place.with(|place| _ = place.0.borrow_mut().take_if(|opening| Rc::ptr_eq(opening, self.opening)));
        }
        self.opening.waiting.take();
    }
}
