//! Policy, memory and the outside world.

pub mod actor;
pub mod bgp;
pub mod cli;
pub mod clock;
pub mod config_check;
pub mod configuration;
pub mod core;
pub mod dataplane;
pub mod driver;
pub mod environment;
pub mod event_file;
pub mod event_line;
pub mod figures;
pub mod guardrail;
pub mod incident;
pub mod kill_switch;
pub mod ladder;
pub mod ledger;
pub mod machine;
pub mod notify;
pub mod run;
pub mod runbook;
pub mod secret;
pub mod server;
pub mod simulate;
pub mod store;
pub mod system_clock;
pub mod utc;
pub mod withdraw;

#[cfg(test)]
mod withdraw_test;
