//! The poll-mode process that watches and filters every packet.

pub mod capture_file;
pub mod dpdk;
pub mod ports;
pub mod privileges;
pub mod replay;
pub mod run;
pub mod service;
pub mod wires;
pub mod worker;
