//! The poll-mode process that watches and filters every packet.

pub mod capture_file;
