//! Raw bindings to libdpdk, generated at build time; no logic, no safe wrapper.
