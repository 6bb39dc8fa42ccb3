//! The drivers that a configuration speaks of and that this version has.

use std::sync::Arc;

use levee_api::config::Config;

use super::{Driver, Filters, Guard};

/// All drivers. Announcers and scrubbers that this version has no driver for are not among them: what is asked of them
/// is incapable.
pub fn configured(config: &Config, guard: &Guard) -> Vec<Arc<dyn Driver>> {
    let filters = Filters::new(&config.appliance.name, config.dataplane.socket.clone(), Arc::clone(guard));
    vec![Arc::new(filters)]
}
