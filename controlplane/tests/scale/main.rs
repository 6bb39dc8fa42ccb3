//! How the control plane does at scale: many incidents, a long ledger, many routes and peers.
//!
//! Figures are printed with `--nocapture`; `scripts/test scale` prints those of an optimised build. With
//! `LEVEE_WRITE_FIGURES=1` in the environment an optimised build writes them into docs/reference/control-plane-figures.md.
#![expect(clippy::unwrap_used, reason = "tests")]

mod core;
mod figures;
mod speaker;
