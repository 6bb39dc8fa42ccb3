//! Policy, memory and the outside world.

pub mod config_check;
