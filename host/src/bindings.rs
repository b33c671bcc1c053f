//! The host's side of Spin's interfaces, generated from `wit/`.

wasmtime::component::bindgen!({
    path: ["../wit", "wit"],
    world: "orders:host/imports",
    imports: { default: async | trappable },
    with: {
        "spin:sqlite/sqlite.connection": crate::sqlite::Connection,
        "spin:key-value/key-value.store": crate::key_value::KeyValueStore,
        "wasi:keyvalue/store.bucket": crate::key_value::KeyValueStore,
    },
});

/// The cron trigger's door.
pub mod cron {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/cron",
        exports: { default: async },
    });
}

/// The timer trigger's door.
pub mod timer {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/timer",
        exports: { default: async },
    });
}
