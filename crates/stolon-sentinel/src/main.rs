//! stolon-sentinel

fn main() {}
