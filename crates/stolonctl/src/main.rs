//! stolonctl

fn main() {}
