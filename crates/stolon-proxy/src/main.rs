//! stolon-proxy

fn main() {}
