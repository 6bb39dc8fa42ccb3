//! Policy, memory and the outside world.

pub mod config_check;
pub mod dataplane;
pub mod event_file;
pub mod event_line;
pub mod run;
