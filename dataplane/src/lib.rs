//! The poll-mode process that watches and filters every packet.
