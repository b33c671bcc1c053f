//! A processor for tests. The first item of an order says what becomes of it:
//!
//! | Item | |
//! |---|---|
//! | `loop` | computes for ever |
//! | `sleep` | sleeps for ever |
//! | `connect:PORT` | sends an HTTP request to 127.0.0.1 and waits for the response |
//! | `trap` | traps |
//! | `fail` | fails for now |
//! | `slow:MS` | takes so many milliseconds, during which nothing else is done, and completes |
//! | anything else | completes at once |

use std::time::Duration;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "fulfillment",
        generate_all,
    });
}

use bindings::exports::orders::fulfillment::processor::{Guest, Outcome, Task};

struct Component;

impl Guest for Component {
    fn process(batch: Vec<Task>) -> Vec<Outcome> {
        batch.iter().map(process).collect()
    }
}

bindings::export!(Component with_types_in bindings);

fn process(task: &Task) -> Outcome {
    let item = task.item_ids.first().map_or("", String::as_str);
    match item.split_once(':').unwrap_or((item, "")) {
        ("loop", _) => loop {
            std::hint::black_box(0);
        },
        ("sleep", _) => loop {
            std::thread::sleep(Duration::from_secs(3_600));
        },
        ("connect", port) => wait_for_response(port),
        ("trap", _) => panic!("the order asks for it"),
        ("fail", _) => Outcome::FailedForNow("the order asks for it".to_owned()),
        ("slow", millis) => {
            std::thread::sleep(Duration::from_millis(millis.parse().unwrap_or_default()));
            Outcome::Completed
        }
        _ => Outcome::Completed,
    }
}

fn wait_for_response(port: &str) -> Outcome {
    let request = OutgoingRequest::new(Fields::new());
    let authority = format!("127.0.0.1:{port}");
    let built = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(&authority)))
        .and_then(|()| request.set_path_with_query(Some("/")));
    if built.is_err() {
        return Outcome::FailedForGood(format!("{authority:?} is no authority"));
    }
    match outgoing_handler::handle(request, None) {
        Ok(response) => {
            response.subscribe().block();
            match response.get() {
                Some(Ok(Ok(_))) => Outcome::Completed,
                other => Outcome::FailedForNow(format!("no response: {other:?}")),
            }
        }
        Err(error) => Outcome::FailedForNow(format!("no request: {error}")),
    }
}
