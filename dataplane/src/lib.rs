//! The poll-mode process that watches and filters every packet.

pub mod analysis;
pub mod baseline;
pub mod bell;
pub mod capture_file;
pub mod capture_writer;
pub mod change;
pub mod dpdk;
pub mod exchange;
pub mod fates;
pub mod files;
pub mod huge_pages;
pub mod in_force;
pub mod kill_switch;
pub mod ports;
pub mod privileges;
pub mod replay;
pub mod run;
pub mod service;
pub mod source_files;
pub mod start;
pub mod tick;
pub mod times;
pub mod wires;
pub mod worker;
pub mod writer;
