//! Whole-program tests and the traffic generator.
