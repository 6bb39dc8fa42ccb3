//! `levee-dataplane ports`: what DPDK sees.

use std::fmt::Write;

use thiserror::Error;

use crate::dpdk::eal::{self, Eal, Memory, Options, Pci};
use crate::dpdk::port::{AttachError, Port, StartError};
use crate::dpdk::port_info::PortInfo;
use crate::dpdk::port_name::{ParseError, PortName};
use crate::dpdk::thread::allowed_cpus;

/// Drivers want some memory when they attach; no packet is received.
const MEMORY_MIB: u64 = 64;

/// What to list.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Also attach this virtual device, for example net_af_packet0,iface=eth1; may be repeated.
    #[arg(long, value_name = "DEVICE")]
    vdev: Vec<String>,
}

/// Why the ports could not be listed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each wraps the error of one step")]
pub enum PortsError {
    #[error(transparent)]
    Name(#[from] ParseError),
    #[error(transparent)]
    Eal(#[from] eal::StartError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Info(#[from] StartError),
    #[error(transparent)]
    Close(#[from] eal::CloseError),
}

/// Lists all ports as text.
pub fn list(arguments: &Arguments) -> Result<String, PortsError> {
    let names = arguments.vdev.iter().map(|text| text.parse()).collect::<Result<Vec<PortName>, _>>()?;
    let options = Options { memory: Memory::NoHuge { mib: MEMORY_MIB }, pci: Pci::All, cpus: allowed_cpus() };
    let eal = Eal::start(&options)?;
    for (number, name) in names.into_iter().enumerate() {
        Port::probe(&eal, &name.numbered(number))?;
    }
    let ports = Port::all(&eal).iter().map(Port::info).collect::<Result<Vec<_>, _>>()?;
    Ok(render(&ports))
}

fn render(ports: &[PortInfo]) -> String {
    if ports.is_empty() {
        return "No port. Network cards must be bound to vfio-pci (dpdk-devbind.py --status shows them); virtual devices \
                are attached with --vdev.\n"
            .to_owned();
    }
    let mut text = String::new();
    for port in ports {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", port.name);
        for (label, value) in [
            ("driver", port.driver.clone()),
            ("address", port.mac.to_string()),
            ("link", port.link.to_string()),
            ("mtu", format!("{} (possible: {} to {})", port.mtu, port.mtu_range.0, port.mtu_range.1)),
            ("queues", format!("{} to receive, {} to send", port.queues.0, port.queues.1)),
            ("rx offloads", names(&port.offloads.0)),
            ("tx offloads", names(&port.offloads.1)),
        ] {
            let _ = writeln!(text, "  {label:<12} {value}");
        }
    }
    text
}

fn names(offloads: &[String]) -> String {
    if offloads.is_empty() { "none".to_owned() } else { offloads.join(" ") }
}
