//! The contract between the planes, the shared vocabulary and the configuration schema.
