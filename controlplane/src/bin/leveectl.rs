//! `leveectl`: what operators type.
//!
//! Exit status: 0 done, 1 it could not be done, 2 wrong usage, 78 the configuration is not valid (`EX_CONFIG` of
//! sysexits.h).

use std::process::ExitCode;

use clap::Parser;
use levee_controlplane::cli::{Arguments, run};

fn main() -> ExitCode {
    run(Arguments::parse())
}
