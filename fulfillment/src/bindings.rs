//! What is generated from `wit/`.

wit_bindgen::generate!({
    path: "../wit",
    world: "simulated-fulfillment",
    generate_all,
});
