//! How the calls of a component to the host are carried out: past the fault injector of a test, and off tokio's
//! threads where they block.

use std::sync::Arc;

use crate::hook::{CallHook, CallKind, Fate, HostCall};

/// Carries out the calls of one component.
pub struct HostCalls {
    component: String,
    hook: Option<Arc<dyn CallHook>>,
    single_threaded: bool,
}

impl HostCalls {
    /// For the component of this name. With `single_threaded`, calls that block run on the caller's thread, so that
    /// a test can replay a run.
    pub fn new(component: String, hook: Option<Arc<dyn CallHook>>, single_threaded: bool) -> Self {
        Self { component, hook, single_threaded }
    }

    /// The component's name in the manifest.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Whether all is done on the caller's thread.
    pub fn single_threaded(&self) -> bool {
        self.single_threaded
    }

    /// What is to happen to a call.
    pub fn fate(&self, kind: CallKind, subject: &str) -> Fate {
        match &self.hook {
            Some(hook) => hook.fate(HostCall { component: &self.component, kind, subject }),
            None => Fate::Proceed,
        }
    }

    /// The statement to run instead of `statement`: the same one, unless a test plants a mistake.
    pub fn rewrite(&self, statement: String) -> String {
        self.hook.as_ref().and_then(|hook| hook.rewrite(&statement)).unwrap_or(statement)
    }

    /// Carries out a call as the hook decides; `error` makes the error that the component gets where it is to fail.
    ///
    /// # Errors
    /// A trap, where the instance is to die.
    pub async fn carry_out<T, E>(
        &self,
        kind: CallKind,
        subject: &str,
        error: impl Fn(String) -> E,
        work: impl Future<Output = Result<T, E>>,
    ) -> wasmtime::Result<Result<T, E>> {
        let mut fate = self.fate(kind, subject);
        while let Fate::Delay(duration, then) = fate {
            tokio::time::sleep(duration).await;
            fate = *then;
        }
        match fate {
            Fate::FailBefore(message) => return Ok(Err(error(message))),
            Fate::DieBefore => wasmtime::bail!("the hook let the instance die"),
            Fate::Proceed | Fate::FailAfter(_) | Fate::DieAfter | Fate::Delay(..) => {}
        }
        let outcome = work.await;
        match fate {
            Fate::FailAfter(message) => Ok(Err(error(message))),
            Fate::DieAfter => wasmtime::bail!("the hook let the instance die"),
            Fate::Proceed | Fate::FailBefore(_) | Fate::DieBefore | Fate::Delay(..) => Ok(outcome),
        }
    }

    /// Does work that blocks, once this is awaited.
    pub async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self.single_threaded {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and whoever awaits this with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
