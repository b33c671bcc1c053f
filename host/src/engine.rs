//! wasmtime's engine: how components are compiled, where their instances live, and how those share the processors.

use wasmtime::{Cache, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// An engine with room for so many instances at once.
pub fn engine(instances: u32) -> anyhow::Result<Engine> {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    // Compiled code is kept in the user's cache folder; a folder that cannot be used costs time, no more.
    match Cache::from_file(None) {
        Ok(cache) => _ = config.cache(Some(cache)),
        Err(error) => tracing::warn!("compiled code is not kept: {error}"),
    }
    // Instances come and go by the thousand: their memories are reserved once and cleaned, not mapped anew.
    // A component has a handful of core instances, each its memory and tables.
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(16))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(8))
        .total_stacks(instances.saturating_mul(2))
        .max_unused_warm_slots(32)
        .linear_memory_keep_resident(256 * 1024)
        .table_keep_resident(16 * 1024);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
        .or_else(|error| {
            // The reservation is terabytes of addresses, which a limit on them (ulimit -v) may forbid.
            tracing::warn!("instances are not pooled: {error}");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config)
        })
        .map_err(anyhow::Error::from)
}
