//! HTTP: what requests bring and how they are answered, whatever they are about.

mod browser;
pub mod budget;
mod digest;
pub mod post;
mod principal;
pub mod problem;
pub mod reply;
pub mod uri;
