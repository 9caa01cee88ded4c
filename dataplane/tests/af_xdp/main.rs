//! AF_XDP ports on veth pairs, in network namespaces of their own. Without the privilege each test says so and passes.
#![allow(unsafe_code)]

mod host;
mod lab;
mod lifecycle;
mod traffic;
mod workers;
