//! Detection: from counters and samples to anomalies, from anomalies to signatures.
//!
//! [`detector`] runs the tick; [`node`] are the targets and [`track`] the state of one role there, judged by
//! [`threshold`] (learned with care: [`late`], [`growth`], [`hours`]) and [`witness`] (against [`habits`], of each of the [`services`], by what [`followed`], and by who sends it: [`sources`]);
//! [`measures`] are the filters in force; [`extract`] finds signatures in samples, checked against the [`reservoir`], which only
//! [`proofs`] open during an attack; [`classify`] gives the attack its name, and [`distinct`] counts who sends it.

pub mod classify;
pub mod detector;
pub mod distinct;
pub mod event;
pub mod extract;
pub mod followed;
pub mod growth;
pub mod habits;
pub mod histogram;
pub mod hours;
pub mod late;
pub mod measures;
pub mod node;
pub mod proofs;
pub mod reservoir;
pub mod returns;
pub mod services;
mod slots;
pub mod snapshot;
pub mod sources;
pub mod threshold;
pub mod track;
pub mod visibility;
pub mod window;
pub mod witness;
pub mod zone;
