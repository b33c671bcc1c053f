//! How one task of an instance wakes another.

use spin_sdk::wasip3::wit_stream;
use spin_sdk::wit_bindgen::StreamWriter;

/// What one task holds of another's wait; the wait ends when this is dropped.
pub struct UntilDropped(#[expect(dead_code, reason = "it is kept to be dropped")] StreamWriter<u8>);

/// A wait that ends when something is dropped.
///
/// Nothing is ever written: the task waits for a stream to end. A task of the component model wakes another one of
/// its instance by such means only; Rust's wakers would need wit-bindgen's inter-task-wakeup, whose way of reading
/// its stream traps on wasmtime 48.
pub fn wait_for_drop() -> (UntilDropped, impl Future<Output = ()>) {
    let (writer, mut reader) = wit_stream::new::<u8>();
    (UntilDropped(writer), async move { _ = reader.next().await })
}
