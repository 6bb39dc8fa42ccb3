//! The third layer of `leveectl config check`: whether this machine has what the file speaks of. Only looks, changes
//! nothing, and connects to nobody.

use std::fs::{self, File};
use std::path::Path;

use levee_api::config::{self, Config, NotifierKind};

use crate::bgp;
use crate::secret::SecretSource;

/// Something that the file speaks of and this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Which part of the file speaks of it.
    pub of: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Lack {
    fn new(of: impl Into<String>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { of: of.into(), message: message.into(), help: help.into() }
    }
}

/// Looks at this machine. What cannot be looked at for lack of permission counts as lacking, and says so.
pub fn check(config: &Config) -> Vec<Lack> {
    let mut lacks = Vec::new();
    folder(&config.appliance.state_dir, "[appliance] state_dir", &mut lacks);
    for (path, of) in
        [(&config.dataplane.socket, "[dataplane] socket"), (&config.controlplane.socket, "[controlplane] socket")]
    {
        path.parent().into_iter().for_each(|parent| folder(parent, of, &mut lacks));
    }
    cpus(config, &mut lacks);
    ports(config, &mut lacks);
    accounts(config, &mut lacks);
    for set in &config.address_sets {
        for file in &set.files {
            if let Err(error) = File::open(file) {
                let message = format!("cannot read {}: {error}", file.display());
                lacks.push(Lack::new(
                    format!("address_set {:?}", set.name),
                    message,
                    "the set would be empty without it",
                ));
            }
        }
    }
    secrets(config, &mut lacks);
    if config.guardrails.kill_switch.exists() {
        let message = format!("the kill switch is on: {} exists", config.guardrails.kill_switch.display());
        lacks.push(Lack::new("[guardrails] kill_switch", message, "remove the file to let anything be mitigated"));
    }
    lacks
}

fn folder(path: &Path, of: &str, lacks: &mut Vec<Lack>) {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => lacks.push(Lack::new(of, format!("{} is no folder", path.display()), "give another path")),
        Err(error) => {
            let message = format!("cannot find the folder {}: {error}", path.display());
            lacks.push(Lack::new(of, message, format!("create it: install -d {}", path.display())));
        }
    }
}

fn cpus(config: &Config, lacks: &mut Vec<Lack>) {
    for cpu in &config.dataplane.workers {
        if !Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}")).exists() {
            let message = format!("this machine has no CPU {cpu}");
            lacks.push(Lack::new("[dataplane] workers", message, "`lscpu -e` lists those that it has"));
        }
    }
}

fn ports(config: &Config, lacks: &mut Vec<Lack>) {
    for wire in &config.dataplane.wires {
        for port in [&wire.outside, &wire.inside] {
            let of = format!("wire {:?}", wire.name);
            let (device, arguments) = port.split_once(',').unwrap_or((port, ""));
            let interface = arguments.split(',').find_map(|argument| argument.strip_prefix("iface="));
            if let Some(interface) = interface {
                // A capture's vdevs have interfaces that are no devices of the kernel.
                let kernel = device.starts_with("net_af_packet") || device.starts_with("net_af_xdp");
                if kernel && !Path::new("/sys/class/net").join(interface).exists() {
                    lacks.push(Lack::new(
                        of,
                        format!("there is no interface {interface:?}"),
                        "`ip link` lists those there are",
                    ));
                }
            } else if device.contains(':') {
                let address =
                    if device.matches(':').count() == 1 { format!("0000:{device}") } else { device.to_owned() };
                if !Path::new("/sys/bus/pci/devices").join(address.to_ascii_lowercase()).exists() {
                    let message = format!("there is no PCI device {address}");
                    lacks.push(Lack::new(of, message, "`dpdk-devbind.py --status` lists those there are"));
                }
            }
        }
    }
}

fn accounts(config: &Config, lacks: &mut Vec<Lack>) {
    let access = &config.controlplane.access;
    let default = config::Access::default();
    let names = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.split(':').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let (users, groups) = (names("/etc/passwd"), names("/etc/group"));
    for (role, given, usual) in [
        ("viewer", &access.viewer, &default.viewer),
        ("operator", &access.operator, &default.operator),
        ("approver", &access.approver, &default.approver),
        ("admin", &access.admin, &default.admin),
    ] {
        // What nobody has written down nobody has to have.
        for name in given.iter().filter(|_| given != usual) {
            let (known, what) = match name.strip_prefix('@') {
                Some(group) => (groups.iter().any(|known| known == group), "group"),
                None => (users.contains(name), "user"),
            };
            if !known {
                let message = format!("this machine has no {what} {:?}", name.trim_start_matches('@'));
                let of = format!("[controlplane.access] {role}");
                lacks.push(Lack::new(
                    of,
                    message,
                    "create it, or take the name out; directories other than files are not asked",
                ));
            }
        }
    }
}

/// Secrets that this process cannot read. Only the service is handed its credentials: others do not ask for them.
fn secrets(config: &Config, lacks: &mut Vec<Lack>) {
    lacks.extend(unreadable(config, |source| matches!(source, SecretSource::File(_))));
}

/// The same for the service itself, which has its credentials.
pub fn secrets_of_service(config: &Config) -> Vec<Lack> {
    unreadable(config, |_| true)
}

fn unreadable(config: &Config, asked: impl Fn(&SecretSource) -> bool) -> Vec<Lack> {
    let secrets = config.notifiers.iter().filter_map(|notifier| match &notifier.kind {
        NotifierKind::Webhook { secret: Some(config::Secret::File(path)), .. } => {
            Some((notifier, SecretSource::File(path.clone())))
        }
        NotifierKind::Webhook { secret: Some(config::Secret::Credential(name)), .. } => {
            Some((notifier, SecretSource::Credential(name.clone())))
        }
        NotifierKind::Webhook { secret: None, .. } | NotifierKind::Log => None,
    });
    let lack = |(notifier, source): (&config::Notifier, SecretSource)| {
        let error = source.read().err()?;
        let of = format!("notifier {:?}", notifier.name);
        Some(Lack::new(of, error.to_string(), "messages could not be signed"))
    };
    let of_notifiers = secrets.filter(|(_, source)| asked(source)).filter_map(lack);
    let peers = config.bgp.iter().flat_map(|bgp| &bgp.peers);
    let peers = peers.filter(|peer| peer.password.as_ref().is_some_and(|secret| asked(&SecretSource::from(secret))));
    let of_peers = peers.filter_map(|peer| {
        let error = bgp::configured::protection(peer).err()?;
        let help = "nothing could be announced to it: the session does not come about without its password";
        Some(Lack::new(format!("bgp.peer {:?}", peer.name), error.to_string(), help))
    });
    of_notifiers.chain(of_peers).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_password_of_a_peer_is_looked_at_as_other_secrets_are() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let text = format!(
            "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n\
             [[announcer]]\nname = \"core-a\"\nkind = \"embedded\"\n[bgp]\nas = 64496\nrouter_id = \"192.0.2.1\"\n\
             [[bgp.peer]]\nname = \"core-a\"\naddress = \"192.0.2.2\"\nas = 64497\npassword = {{ file = {key:?} }}\n"
        );
        let config = Config::parse("levee.toml", &text).unwrap();
        let told = || {
            let mut lacks = Vec::new();
            secrets(&config, &mut lacks);
            assert_eq!(lacks, secrets_of_service(&config));
            lacks.into_iter().map(|lack| format!("{}: {}", lack.of, lack.message)).collect::<String>()
        };
        assert!(told().contains("bgp.peer \"core-a\": ") && told().contains("cannot read the secret"), "{}", told());
        fs::write(&key, [b'x'; 81]).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(told().contains("81 bytes"), "{}", told());
        // The end of the line is no part of it.
        fs::write(&key, [&[b'x'; 80][..], b"\n"].concat()).unwrap();
        assert_eq!(told(), "");
    }
}
