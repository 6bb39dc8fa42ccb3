//! How good `levee-dataplane replay` is on composed captures. What the program says about itself decides nothing: the
//! fate of every packet is read from the captures that it writes, and the truth about it is in its label.

mod cases;
mod replay;
mod score;
mod site;
mod table;
mod weeks;

pub use cases::{Plan, conditions, crowds, floods, shapes};
pub use replay::{Fate, MeasureError, Outcome, Replay};
pub use score::Score;
pub use site::{Site, prefix_threshold_pps, threshold_pps};
pub use table::Figures;
pub use weeks::{Peace, weeks};
