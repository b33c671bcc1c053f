//! The rules of order processing, free of I/O.
//!
//! This crate knows what an order is ([`order`]), how a client's JSON becomes one ([`draft`]), which state
//! follows which ([`lifecycle`]), how orders are taken in ([`intake`]) and worked off ([`worker`]). It reaches
//! the world through three seams and nothing else: a [`store::Store`], a [`queue`] and a [`worker::Processor`]. Time
//! and randomness are passed in by the caller.
//!
//! The SQL of the SQLite backend is in [`sqlite`], its schema in `migrations/`; it speaks through
//! [`sqlite::Connection`], which the components implement over the runtime and the tests over rusqlite. The same for
//! PostgreSQL is in [`postgres`], `migrations/postgres/` and [`postgres::Pool`].
//!
//! The seams' futures are not `Send`: components are single-threaded.
#![allow(async_fn_in_trait)]

pub mod batch;
pub mod dead_letters;
pub mod draft;
pub mod intake;
pub mod json;
pub mod lifecycle;
pub mod order;
pub mod page;
pub mod postgres;
pub mod principal;
pub mod queue;
pub mod settings;
pub mod sqlite;
pub mod store;
#[cfg(any(test, feature = "test-doubles"))]
pub mod test_doubles;
pub mod worker;
