//! `spin:variables` and its older form in `fermyon:spin`.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::Result;
use wasmtime::component::{Accessor, HasData, Linker};

use crate::hook::CallKind;
use crate::host_calls::HostCalls;

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/variables",
        imports: { default: async | trappable },
    });
}

use bindings::fermyon::spin::variables as fermyon;
use bindings::spin::variables::variables as spin;

/// The variables of a component, filled in.
#[derive(Clone)]
pub struct Access {
    /// Carries its calls out.
    pub calls: Arc<HostCalls>,
    /// Their values by name.
    pub values: Arc<BTreeMap<String, String>>,
}

impl Access {
    /// The variable's value; `None` where the component does not declare it. The error is the hook's.
    async fn read(&self, name: &str) -> Result<Result<Option<String>, String>> {
        let value = self.values.get(name).cloned();
        self.calls.carry_out(CallKind::Variable, name, |message| message, async { Ok(value) }).await
    }
}

/// Links the interfaces for stores that hold an [`Access`].
pub fn add_to_linker<T: Send>(linker: &mut Linker<T>, view: fn(&mut T) -> &mut Access) -> Result<()> {
    bindings::Variables::add_to_linker::<_, Variables>(linker, view)
}

struct Variables;

impl HasData for Variables {
    type Data<'a> = &'a mut Access;
}

fn undefined(name: &str) -> String {
    format!("no variable for {name:?}")
}

impl spin::Host for Access {}

impl<T: Send> spin::HostWithStore<T> for Variables {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> Result<Result<String, spin::Error>> {
        let access = accessor.with(|mut access| access.get().clone());
        Ok(match access.read(&name).await? {
            Ok(value) => value.ok_or_else(|| spin::Error::Undefined(undefined(&name))),
            Err(error) => Err(spin::Error::Provider(error)),
        })
    }
}

impl fermyon::Host for Access {
    async fn get(&mut self, name: String) -> Result<Result<String, fermyon::Error>> {
        Ok(match self.read(&name).await? {
            Ok(value) => value.ok_or_else(|| fermyon::Error::Undefined(undefined(&name))),
            Err(error) => Err(fermyon::Error::Provider(error)),
        })
    }
}
