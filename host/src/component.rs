//! A component, compiled, linked, and with what the manifest grants it; and the state of its instances.
//!
//! An interface of the host's is added in three places here: [`Access`], [`InstanceState`] and [`linker`].

use wasmtime::component::{InstancePre, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::engine::{Sharing, share_processors};
use crate::interfaces::{key_value, outbound_http, sqlite, variables, wasi};

/// What the manifest grants a component.
pub struct Access {
    /// `spin:sqlite`
    pub sqlite: sqlite::Access,
    /// `spin:key-value` and `wasi:keyvalue`
    pub key_value: key_value::Access,
    /// `spin:variables`
    pub variables: variables::Access,
    /// `wasi:http`, outwards
    pub outbound_http: outbound_http::Access,
    /// The rest of WASI.
    pub wasi: wasi::Access,
}

/// A component that can be instantiated.
pub struct Component {
    /// Its name in the manifest.
    pub name: String,
    engine: Engine,
    pre: InstancePre<InstanceState>,
    access: Access,
}

impl Component {
    /// A compiled and linked component with its access.
    pub fn new(name: String, pre: InstancePre<InstanceState>, access: Access) -> Self {
        Self { name, engine: pre.engine().clone(), pre, access }
    }

    /// What triggers make their bindings of.
    pub fn pre(&self) -> InstancePre<InstanceState> {
        self.pre.clone()
    }

    /// A store for one instance, which shares the processors with others in this way.
    pub fn new_store(&self, sharing: Sharing) -> Store<InstanceState> {
        let mut store = Store::new(&self.engine, InstanceState::new(&self.access));
        share_processors(&mut store, sharing);
        store
    }
}

/// The data of an instance's store.
pub struct InstanceState {
    table: ResourceTable,
    sqlite: sqlite::Access,
    key_value: key_value::Access,
    variables: variables::Access,
    outbound_http: outbound_http::Access,
    wasi: WasiCtx,
    wasi_http: WasiHttpCtx,
}

impl InstanceState {
    fn new(access: &Access) -> Self {
        Self {
            table: ResourceTable::new(),
            sqlite: access.sqlite.clone(),
            key_value: access.key_value.clone(),
            variables: access.variables.clone(),
            outbound_http: access.outbound_http.clone(),
            wasi: access.wasi.new_context(),
            wasi_http: WasiHttpCtx::new(),
        }
    }
}

impl WasiView for InstanceState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for InstanceState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.wasi_http, table: &mut self.table, hooks: &mut self.outbound_http }
    }
}

/// All that a component can import here.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    wasi::add_to_linker(&mut linker)?;
    outbound_http::add_to_linker(&mut linker)?;
    sqlite::add_to_linker(&mut linker, |state: &mut InstanceState| sqlite::View {
        access: &state.sqlite,
        table: &mut state.table,
    })?;
    key_value::add_to_linker(&mut linker, |state: &mut InstanceState| key_value::View {
        access: &state.key_value,
        table: &mut state.table,
    })?;
    variables::add_to_linker(&mut linker, |state: &mut InstanceState| &mut state.variables)?;
    Ok(linker)
}
