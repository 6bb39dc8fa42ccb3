//! `levee-dataplane`.
fn main() {}
