//! What is generated from `wit/`.

wit_bindgen::generate!({
    path: "../wit",
    world: "order-worker",
    generate_all,
});
