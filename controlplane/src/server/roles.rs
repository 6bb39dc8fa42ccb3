//! Who may call what: one table, and how a caller on the unix socket comes by his role.
//!
//! Only root, the control plane's own user and the group `levee` can connect at all. `[controlplane.access]` gives users
//! and groups of the machine their roles; nobody needs a password. The remote API will come by roles through
//! certificates, and use the same table.

use std::fmt;

use levee_api::config::Access;
use levee_api::grpc::socket::Peer;

use crate::actor::{Actor, Role};

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// This role, or one above it.
    Role(Role),
    /// Leave to see captures, which hold personal data: no role includes it.
    Captures,
}

const LOOK: Needs = Needs::Role(Role::Viewer);
const ACT: Needs = Needs::Role(Role::Operator);
const ADMINISTER: Needs = Needs::Role(Role::Admin);

/// Every method that is served, and what it asks of its caller. What is not here is refused.
pub const METHODS: &[(&str, Needs)] = &[
    ("/levee.v1.Zones/List", LOOK),
    ("/levee.v1.Zones/Get", LOOK),
    ("/levee.v1.Incidents/List", LOOK),
    ("/levee.v1.Incidents/Get", LOOK),
    ("/levee.v1.Incidents/Watch", LOOK),
    ("/levee.v1.Mitigations/List", LOOK),
    ("/levee.v1.Mitigations/Add", ACT),
    ("/levee.v1.Mitigations/Renew", ACT),
    ("/levee.v1.Mitigations/Withdraw", ACT),
    ("/levee.v1.Mitigations/ListRoutes", LOOK),
    ("/levee.v1.Runbooks/List", LOOK),
    ("/levee.v1.Runbooks/Get", LOOK),
    ("/levee.v1.Runbooks/ListApprovals", LOOK),
    // A stage says which roles it wants: the core looks again.
    ("/levee.v1.Runbooks/Approve", ACT),
    ("/levee.v1.Runbooks/Deny", ACT),
    ("/levee.v1.Captures/List", Needs::Captures),
    ("/levee.v1.Captures/Get", Needs::Captures),
    ("/levee.v1.System/GetStatus", LOOK),
    ("/levee.v1.System/Explain", LOOK),
    ("/levee.v1.System/DiffConfig", ADMINISTER),
    ("/levee.v1.System/ReloadConfig", ADMINISTER),
    ("/levee.v1.System/ConfirmConfig", ADMINISTER),
    // Letting go of it again is for administrators: the service looks.
    ("/levee.v1.System/SetKillSwitch", ACT),
    ("/grpc.health.v1.Health/Check", LOOK),
    ("/grpc.health.v1.Health/Watch", LOOK),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", LOOK),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", LOOK),
];

/// What a method asks of its caller; none when it is not in the table.
pub fn needed(method: &str) -> Option<Needs> {
    METHODS.iter().find(|(name, _)| *name == method).map(|(_, needs)| *needs)
}

/// Who calls, and what he may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user name of the machine, or the number of the user.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// Whether he may see captures.
    pub captures: bool,
}

impl Caller {
    /// Who is at the other end of the unix socket, with the highest role that `[controlplane.access]` gives him; none if
    /// it gives him none. Root and the control plane's own user, who could change the file and the store anyway, may do
    /// everything.
    pub fn at(peer: &Peer, access: &Access) -> Option<Self> {
        let name = peer.identity.name.clone().unwrap_or_else(|| format!("uid {}", peer.uid));
        if peer.uid == 0 || peer.uid == nix::unistd::Uid::effective().as_raw() {
            return Some(Self { name, role: Role::Admin, captures: true });
        }
        let is_listed = |list: &[String]| {
            list.iter().any(|one| match one.strip_prefix('@') {
                Some(group) => peer.identity.groups.contains(group),
                None => *one == name,
            })
        };
        let lists = [&access.viewer, &access.operator, &access.approver, &access.admin];
        let mut roles = Role::ALL.into_iter().zip(lists).rev();
        let role = roles.find(|(_, list)| is_listed(list)).map(|(role, _)| role)?;
        Some(Self { role, captures: is_listed(&access.captures), name })
    }

    /// Whether that is enough.
    pub fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Role(role) => self.role >= role,
            Needs::Captures => self.captures,
        }
    }

    /// As it is written down with what he asks for.
    pub fn actor(&self) -> Actor {
        Actor::Operator { name: self.name.clone(), role: self.role }
    }
}

impl Needs {
    /// The key of `[controlplane.access]` that gives it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Role(role) => role.name(),
            Self::Captures => "captures",
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => write!(f, "the role {role}"),
            Self::Captures => f.write_str("leave to see captures"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use levee_api::grpc::DESCRIPTORS;
    use levee_api::grpc::socket::Identity;
    use prost::Message as _;

    use super::*;

    /// The methods of all services of one package, as they are called.
    fn methods(descriptors: &[u8], package: &str) -> BTreeSet<String> {
        let files = prost_types::FileDescriptorSet::decode(descriptors).unwrap();
        let services = files.file.iter().filter(|file| file.package() == package).flat_map(|file| &file.service);
        let methods = services.flat_map(|service| {
            service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
        });
        methods.collect()
    }

    #[test]
    fn every_method_is_in_the_table_and_nothing_else() {
        let served: BTreeSet<String> = [
            methods(DESCRIPTORS, "levee.v1"),
            methods(tonic_health::pb::FILE_DESCRIPTOR_SET, "grpc.health.v1"),
            methods(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, "grpc.reflection.v1"),
            methods(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET, "grpc.reflection.v1alpha"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let listed: BTreeSet<String> = METHODS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, served);
        assert_eq!(listed.len(), METHODS.len(), "a method is listed twice");
    }

    #[test]
    fn a_viewer_may_call_nothing_that_changes_anything() {
        let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut seen = 0;
        for file in files.file.iter().filter(|file| file.package() == "levee.v1") {
            for (service, method) in file.service.iter().flat_map(|s| s.method.iter().map(move |method| (s, method))) {
                let input = method.input_type().rsplit('.').next().unwrap();
                let message = file.message_type.iter().find(|message| message.name() == input).unwrap();
                let has = |name: &str| message.field.iter().any(|field| field.name() == name);
                let path = format!("/levee.v1.{}/{}", service.name(), method.name());
                assert_eq!(has("request_id"), has("validate_only"), "{path}");
                if has("request_id") {
                    assert!(needed(&path) != Some(LOOK), "{path}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 8);
    }

    #[test]
    fn the_file_says_who_has_which_role() {
        let peer = |uid, gid| Peer { uid, gid, pid: None, identity: Identity::look_up(uid, gid).into() };
        let nobody = &peer(65_534, 65_534);
        let root = Caller::at(&peer(0, 0), &Access::default()).unwrap();
        assert_eq!((root.role, root.captures), (Role::Admin, true));
        assert_eq!(Caller::at(nobody, &Access::default()), None, "neither listed nor of the group levee");

        let viewer = Access { viewer: vec!["@nogroup".to_owned()], ..Access::default() };
        let caller = Caller::at(nobody, &viewer).unwrap();
        assert_eq!((caller.role, caller.captures), (Role::Viewer, false));
        assert!(caller.has(LOOK) && !caller.has(ACT) && !caller.has(Needs::Captures));

        let approver = Access { approver: vec!["nobody".to_owned()], captures: vec!["nobody".to_owned()], ..viewer };
        let caller = Caller::at(nobody, &approver).unwrap();
        assert_eq!((caller.role, caller.captures), (Role::Approver, true));
        assert!(caller.has(ACT) && !caller.has(ADMINISTER));
    }

    #[test]
    fn what_is_not_in_the_table_is_for_nobody() {
        assert_eq!(needed("/levee.v1.System/Shutdown"), None);
    }
}
