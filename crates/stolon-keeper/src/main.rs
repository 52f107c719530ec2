//! stolon-keeper

fn main() {}
