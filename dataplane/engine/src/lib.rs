//! Everything that decides about packets, without DPDK.
