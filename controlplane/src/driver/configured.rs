//! The drivers that a configuration speaks of and that this version has.

use std::collections::BTreeSet;
use std::sync::Arc;

use levee_api::config::Config;

use super::{Driver, Filters, Guard, OwnerTag};

/// All drivers. Announcers and scrubbers that this version has no driver for are not among them: what is asked of them
/// is incapable.
///
/// `tags`: what the ledger knows to be in force. Of these, drivers also tell what carries an earlier name of the appliance.
pub fn configured(config: &Config, guard: &Guard, tags: &BTreeSet<OwnerTag>) -> Vec<Arc<dyn Driver>> {
    let filters = Filters::new(&config.appliance.name, config.dataplane.socket.clone(), Arc::clone(guard));
    let filters = filters.with_former(tags);
    vec![Arc::new(filters)]
}
