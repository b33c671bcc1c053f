//! What is generated from `wit/`.

wit_bindgen::generate!({
    path: "../wit",
    world: "runtime",
    generate_all,
});
