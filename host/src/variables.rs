//! `spin:variables` and its older form in `fermyon:spin`.

use wasmtime::Result;
use wasmtime::component::Accessor;

use crate::bindings::fermyon::spin::variables as fermyon;
use crate::bindings::spin::variables::variables as spin;
use crate::hook::CallKind;
use crate::instance::{Grants, HostInterfaces, InstanceState};

/// The variable's value; `None` where the component does not declare it. The error is the hook's.
async fn read(grants: &Grants, name: &str) -> Result<Result<Option<String>, String>> {
    let value = grants.variables.get(name).cloned();
    grants.call(CallKind::Variable, name, |message| message, async { Ok(value) }).await
}

fn undefined(name: &str) -> String {
    format!("no variable for {name:?}")
}

impl spin::Host for InstanceState {}

impl<T: Send> spin::HostWithStore<T> for HostInterfaces {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> Result<Result<String, spin::Error>> {
        let grants = accessor.with(|mut access| access.get().grants.clone());
        Ok(match read(&grants, &name).await? {
            Ok(value) => value.ok_or_else(|| spin::Error::Undefined(undefined(&name))),
            Err(error) => Err(spin::Error::Provider(error)),
        })
    }
}

impl fermyon::Host for InstanceState {
    async fn get(&mut self, name: String) -> Result<Result<String, fermyon::Error>> {
        Ok(match read(&self.grants, &name).await? {
            Ok(value) => value.ok_or_else(|| fermyon::Error::Undefined(undefined(&name))),
            Err(error) => Err(fermyon::Error::Provider(error)),
        })
    }
}
