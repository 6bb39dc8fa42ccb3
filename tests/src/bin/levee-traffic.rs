//! `levee-traffic`.
fn main() {}
