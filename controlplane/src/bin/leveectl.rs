//! `leveectl`.
fn main() {}
