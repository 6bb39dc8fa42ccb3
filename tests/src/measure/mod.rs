//! How good `levee-dataplane replay` is on composed captures. What the program says about itself decides nothing: the
//! fate of every packet is read from the captures that it writes, and the truth about it is in its label.

mod replay;
mod score;
mod site;
mod table;
mod weeks;

pub use replay::{Fate, MeasureError, Outcome, Replay};
pub use score::Score;
pub use site::{Site, threshold_pps};
pub use table::{Figures, Plan, conditions, crowds, floods};
pub use weeks::{Peace, weeks};
