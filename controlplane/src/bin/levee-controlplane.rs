//! `levee-controlplane`.
fn main() {}
