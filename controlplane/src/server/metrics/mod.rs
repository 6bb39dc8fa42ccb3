//! `/metrics` of both planes over HTTP, for Prometheus: the dataplane's counters come over the contract.
//!
//! Labels are wires, zones, workers, reasons, drivers, methods: what the configuration and the program bound. Addresses
//! are never among them.

mod dataplane;
mod family;
mod http;
mod overview;

use std::sync::Arc;

use prometheus::proto::MetricFamily;
use prometheus::{Encoder as _, TextEncoder};

pub use family::{METRICS, Metric, Type};
pub use http::{BindError, bind, serve};

use super::calls::CallCounters;
use super::link::{Handle, Refused};
use super::zones;
use family::Families;

/// Where the figures come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The core, the dataplane, the configuration.
    pub handle: Handle,
    /// Calls of the API.
    pub calls: Arc<CallCounters>,
    /// When the control plane started, in seconds since 1970.
    pub started: f64,
}

impl Sources {
    /// Everything, as of now. Without a dataplane its part is missing, and `levee_dataplane_up` says so.
    ///
    /// # Errors
    /// When the control plane is stopping.
    pub async fn gather(&self) -> Result<Vec<MetricFamily>, Refused> {
        let counters = zones::counters(&self.handle).await;
        let known = self.handle.query(overview::Overview::of).await?;
        let mut families = Families::default();
        overview::tell(&mut families, self, &known, counters.is_some());
        if let Some(counters) = counters {
            dataplane::tell(&mut families, &counters);
        }
        Ok(families.into_all())
    }

    /// The same in Prometheus's text format.
    ///
    /// # Errors
    /// In words.
    pub async fn text(&self) -> Result<Vec<u8>, String> {
        let families = self.gather().await.map_err(|error| error.to_string())?;
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }
}
