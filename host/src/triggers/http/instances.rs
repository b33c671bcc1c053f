//! The instances of an HTTP component, and which of them gets a request: wasmtime's `ProxyHandler` hands requests over
//! and uses each instance for many of them, as Spin does.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Result;
use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, InstantiationError, Proxy, ProxyHandler, ShouldAccept, WorkerExpiration, WorkerState,
    WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::component::{Component, InstanceState};
use crate::engine::Sharing;
use crate::options::Reuse;

/// How long a request may take. Components answer in seconds, so one that takes longer waits for the rest of a
/// body that does not come; its instance is used no more.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the request may take that asks whether a component is ready: it may have a large database to migrate first.
const START_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A component that answers requests.
pub struct HttpComponent(ProxyHandler<Instances>);

impl HttpComponent {
    /// Its instances share the processors in this way; `permits` are one for each instance that there may be, of this
    /// and other components.
    pub fn new(component: Arc<Component>, sharing: Sharing, reuse: Reuse, permits: Arc<Semaphore>) -> Result<Self> {
        let service = ServicePre::new(component.pre()).map_err(anyhow::Error::from)?;
        let accepting = reuse.accepting_instances.max(1);
        let vacancies = Arc::new(Vacancies {
            entries: Arc::new(Semaphore::new(0)),
            vacant: Mutex::default(),
            is_starting: AtomicBool::new(false),
            permits,
        });
        for _ in 0..accepting {
            vacancies.offer(vacancies.permits.clone().try_acquire_owned()?, true);
        }
        Ok(Self(ProxyHandler::new(Instances { component, service, sharing, reuse, vacancies })))
    }

    /// The component's name.
    pub fn name(&self) -> &str {
        &self.0.state().component.name
    }

    /// Has an instance answer the request that asks whether the component is ready, before any other.
    ///
    /// # Errors
    /// As for [`Self::answer`], after [`START_TIMEOUT`].
    pub async fn answer_at_start(&self, request: Request<WasiBody>) -> wasmtime::Result<Response<WasiBody>> {
        let is_starting = &self.0.state().vacancies.is_starting;
        is_starting.store(true, Ordering::Relaxed);
        let answered = self.answer(request).await;
        is_starting.store(false, Ordering::Relaxed);
        answered
    }

    /// Has an instance answer a request.
    ///
    /// `ProxyHandler` starts a new instance whenever none is free at that moment, so that under load each has a
    /// request or two, and what an instance could do for many at once is done for each. Here a request enters when an
    /// instance is free; few are then enough, and each has company.
    ///
    /// A request waits here, and nowhere else for long: if its client goes away meanwhile, this is dropped and the
    /// request is not carried out.
    ///
    /// # Errors
    /// `ExpirationError` after [`REQUEST_TIMEOUT`]; all others are the component's failures.
    pub async fn answer(&self, mut request: Request<WasiBody>) -> wasmtime::Result<Response<WasiBody>> {
        let vacancies = &self.0.state().vacancies;
        loop {
            let entry = vacancies.entries.clone().acquire_owned().await.expect("the semaphore is never closed");
            let error = match self.0.handle(entry, request).await {
                Err(error) => error,
                answered => return answered,
            };
            match error.downcast::<InstantiationError<Entry>>() {
                Ok(failed) if failed.error.is::<NoVacancy>() => {
                    // The instance that was free a moment ago is not. It will be.
                    request = failed.request.into_inner().expect("no access panics");
                    drop(failed.request_data);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(failed) => return Err(failed.into()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The right of one request to enter an instance; it is used up when the instance takes the request.
type Entry = OwnedSemaphorePermit;

/// The component has places for a few instances that take requests. There is one [`Entry`] for each place that a new
/// instance can take at once, and one for each whose instance is free.
struct Vacancies {
    entries: Arc<Semaphore>,
    /// A permit for the new instance of each vacant place.
    vacant: Mutex<Vec<OwnedSemaphorePermit>>,
    /// One for each instance that there may be.
    permits: Arc<Semaphore>,
    /// Whether the component is being asked whether it is ready.
    is_starting: AtomicBool,
}

impl Vacancies {
    /// How long a request may take now.
    fn request_timeout(&self) -> Duration {
        if self.is_starting.load(Ordering::Relaxed) { START_TIMEOUT } else { REQUEST_TIMEOUT }
    }

    /// Lets a new instance take a place, by an entry of its own unless there is one already.
    fn offer(&self, permit: OwnedSemaphorePermit, with_entry: bool) {
        self.vacant.lock().expect("no access panics").push(permit);
        self.entries.add_permits(usize::from(with_entry));
    }

    /// Does so as soon as there may be one more instance.
    fn offer_when_permitted(self: &Arc<Self>, with_entry: bool) {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return self.offer(permit, with_entry);
        }
        // Outside of a runtime the host is being stopped.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let this = self.clone();
        runtime.spawn(async move {
            let permit = this.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            this.offer(permit, with_entry);
        });
    }
}

/// All places are taken.
#[derive(Debug, thiserror::Error)]
#[error("all places are taken")]
struct NoVacancy;

/// What an instance has of its place.
struct Place {
    vacancies: Arc<Vacancies>,
    /// Whether it still has the place.
    held: AtomicBool,
    /// Whether there is an entry for this instance.
    offered: AtomicBool,
    /// Whether it waits for something, and is not computing.
    waits: AtomicBool,
}

impl Place {
    fn offer_entry(&self) {
        if !self.offered.swap(true, Ordering::Relaxed) {
            self.vacancies.entries.add_permits(1);
        }
    }

    /// Leaves the place to another instance: this one takes no more requests.
    fn leave(&self) {
        if !self.held.swap(false, Ordering::Relaxed) {
            return;
        }
        // Its entry, if there is one and no request has it yet, waits with the place.
        let mut has_entry = self.offered.swap(true, Ordering::Relaxed);
        if has_entry && let Ok(entry) = self.vacancies.entries.clone().try_acquire_owned() {
            entry.forget();
            has_entry = false;
        }
        self.vacancies.offer_when_permitted(!has_entry);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Makes the instances of a component, and says how long each is used.
struct Instances {
    component: Arc<Component>,
    service: ServicePre<InstanceState>,
    sharing: Sharing,
    reuse: Reuse,
    vacancies: Arc<Vacancies>,
}

impl HandlerState for Instances {
    type StoreData = InstanceState;
    type WorkerExpiration = Expiration;
    type WorkerState = ReuseLimits;

    async fn instantiate(&self) -> wasmtime::Result<Instance<InstanceState, Expiration, ReuseLimits>> {
        let permit = self.vacancies.vacant.lock().expect("no access panics").pop();
        let permit = permit.ok_or_else(|| wasmtime::Error::new(NoVacancy))?;
        let place = Arc::new(Place {
            vacancies: self.vacancies.clone(),
            held: AtomicBool::new(true),
            // The entry of the vacancy, which the first request had.
            offered: AtomicBool::new(true),
            waits: AtomicBool::new(true),
        });
        let mut store = self.component.new_store(self.sharing.clone());
        let proxy = Proxy::P3(self.service.instantiate_async(&mut store).await?);
        Ok(Instance {
            store,
            proxy,
            view: InstanceState::http,
            expiration: Expiration::new(self.reuse.idle_instance_timeout, place.clone()),
            state: ReuseLimits { component: self.component.clone(), reuse: self.reuse, place, _permit: permit },
        })
    }
}

struct ReuseLimits {
    component: Arc<Component>,
    reuse: Reuse,
    place: Arc<Place>,
    _permit: OwnedSemaphorePermit,
}

impl WorkerState for ReuseLimits {
    type StoreData = InstanceState;
    type RequestData = Entry;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        // One that is full is done too: what it has may take long, and nobody should wait for it.
        if total >= self.reuse.max_instance_reuse_count || concurrent >= self.reuse.max_instance_concurrent_reuse_count
        {
            self.place.leave();
            return ShouldAccept::Never;
        }
        // `ProxyHandler` has an instance take a request when it has none or waits, and asks here right before.
        if concurrent == 0 || self.place.waits.load(Ordering::Relaxed) {
            self.place.offer_entry();
        }
        ShouldAccept::Yes
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, InstanceState>,
        entry: Entry,
        _: wasmtime::component::GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        entry.forget();
        self.place.offered.store(false, Ordering::Relaxed);
        self.place.waits.store(false, Ordering::Relaxed);
        let place = self.place.clone();
        Box::pin(async move {
            tokio::time::sleep(place.vacancies.request_timeout()).await;
            place.leave();
        })
    }

    fn drop(&self, store: Store<InstanceState>, result: Result<(), wasmtime::Error>) {
        // An instance that is cut off when the host stops is told as if it had panicked.
        let is_stopped = |error: &wasmtime::Error| error.to_string() == "worker panicked" && !std::thread::panicking();
        if let Some(error) = result.err().filter(|error| !is_stopped(error)) {
            tracing::error!("an instance of {} failed: {error:?}", self.component.name);
        }
        drop(store);
        self.place.leave();
    }
}

/// Ends an instance that has been idle, or whose latest request does not come to an end. It goes by tokio's
/// time, which tests can drive, and uses the handler's own only to notice that something began anew.
struct Expiration {
    idle: Duration,
    place: Arc<Place>,
    began: Option<(WorkerStatus, Instant, tokio::time::Instant)>,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Expiration {
    fn new(idle: Duration, place: Arc<Place>) -> Self {
        Self { idle, place, began: None, sleep: Box::pin(tokio::time::sleep(idle)) }
    }
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        // This is asked when the instance has nothing to do but wait.
        self.place.waits.store(true, Ordering::Relaxed);
        let began = match self.began {
            Some((was, at, began)) if (was, at) == (status, start) => began,
            _ => {
                let now = tokio::time::Instant::now();
                self.began = Some((status, start, now));
                now
            }
        };
        let timeout = match status {
            WorkerStatus::Idle => self.idle,
            WorkerStatus::Requests | WorkerStatus::PostReturn => self.place.vacancies.request_timeout(),
        };
        let deadline = began + timeout;
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(context)
    }
}
