//! Which scope each call needs. This is the only place that says so, and `docs/api-access.md` shows it.

use super::scope::Scope;

/// What a token needs for one call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The service and the method, as in the path of a request.
    pub(super) name: &'static str,
    /// Any of these scopes is enough. The first one is named if all are missing.
    pub(super) scopes: &'static [Scope],
    pub(super) about: About,
    /// True if the call changes something, so that it is noted in the audit log.
    pub(super) writes: bool,
}

/// What a call is about, which decides what patterns of channels mean for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Channels that the request names. Its fields are checked one by one.
    Channels,
    /// Users or connectors, whatever channels they are in. A token with patterns must not make such a call.
    Others,
}

const READ: &[Scope] = &[Scope::Read];
/// Connectors read histories and members for their clients.
const READ_OR_CONNECTOR: &[Scope] = &[Scope::Read, Scope::Connector];
const SEND: &[Scope] = &[Scope::Send];
const MEMBERS: &[Scope] = &[Scope::Members];
const USERS: &[Scope] = &[Scope::Users];
const NODES: &[Scope] = &[Scope::Nodes];
const ADMIN: &[Scope] = &[Scope::Admin];
const CONNECTOR: &[Scope] = &[Scope::Connector];

const fn reads(name: &'static str, scopes: &'static [Scope], about: About) -> Call {
    Call {
        name,
        scopes,
        about,
        writes: false,
    }
}

const fn writes(name: &'static str, scopes: &'static [Scope], about: About) -> Call {
    Call {
        writes: true,
        ..reads(name, scopes, about)
    }
}

/// All calls of chat's own services.
pub(super) const CALLS: [Call; 30] = [
    writes("chat.v1.ChatService/Send", SEND, About::Channels),
    writes("chat.v1.ChatService/SendStream", SEND, About::Channels),
    writes("chat.v1.ChatService/BatchSend", SEND, About::Channels),
    writes("chat.v1.ChatService/Broadcast", SEND, About::Channels),
    reads("chat.v1.ChatService/Watch", READ, About::Channels),
    reads(
        "chat.v1.ChatService/History",
        READ_OR_CONNECTOR,
        About::Channels,
    ),
    writes("chat.v1.ChatService/Join", MEMBERS, About::Channels),
    writes("chat.v1.ChatService/Leave", MEMBERS, About::Channels),
    reads(
        "chat.v1.ChatService/ListMembers",
        READ_OR_CONNECTOR,
        About::Channels,
    ),
    reads("chat.v1.ChatService/CountMembers", READ, About::Channels),
    reads("chat.v1.ChatService/GetChannel", READ, About::Channels),
    reads("chat.v1.ChatService/ListChannels", READ, About::Channels),
    writes("chat.v1.ChatService/TrimHistory", ADMIN, About::Channels),
    writes("chat.v1.ChatService/DeleteChannel", ADMIN, About::Channels),
    // Of a channel. Those of a user and of a connector are refused where the request is read.
    reads("chat.v1.UserService/ListSessions", USERS, About::Channels),
    reads("chat.v1.UserService/BatchGetPresence", USERS, About::Others),
    writes("chat.v1.UserService/PushToUsers", USERS, About::Others),
    writes("chat.v1.UserService/AddToChannel", MEMBERS, About::Channels),
    writes(
        "chat.v1.UserService/RemoveFromChannel",
        MEMBERS,
        About::Channels,
    ),
    writes("chat.v1.UserService/Disconnect", USERS, About::Others),
    writes("chat.v1.UserService/BlockUser", ADMIN, About::Others),
    writes("chat.v1.UserService/UnblockUser", ADMIN, About::Others),
    writes("chat.v1.UserService/RevokeTokens", ADMIN, About::Others),
    reads("chat.v1.UserService/GetRestrictions", USERS, About::Others),
    reads("chat.v1.NodeService/ListConnectors", NODES, About::Others),
    writes("chat.v1.NodeService/DrainConnector", ADMIN, About::Others),
    // Connectors write for their clients, so this would be the log of all that clients do.
    reads("connector.v1.SessionService/Join", CONNECTOR, About::Others),
    reads(
        "connector.v1.SessionService/Leave",
        CONNECTOR,
        About::Others,
    ),
    reads(
        "connector.v1.SessionService/SendStream",
        CONNECTOR,
        About::Others,
    ),
    reads(
        "connector.v1.SessionService/Probe",
        CONNECTOR,
        About::Others,
    ),
];

/// The health of chat, which everybody may ask for: probes send no token.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Both versions of server reflection.
const REFLECTION: &str = "/grpc.reflection.";

/// Who may make a request to a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Everybody.
    Nothing,
    /// No token for callers on this machine, and any token for others.
    AnyTokenFromElsewhere,
    /// Any token. Nothing is at this path, and only a caller that is let in is told what there is.
    AnyToken,
    /// A token with a scope.
    Call(&'static Call),
}

pub(super) fn needs(path: &str) -> Needs {
    if path.starts_with(HEALTH) {
        return Needs::Nothing;
    }
    if path.starts_with(REFLECTION) {
        return Needs::AnyTokenFromElsewhere;
    }
    let name = path.strip_prefix('/').unwrap_or(path);
    let call = CALLS.iter().find(|call| call.name == name);
    call.map_or(Needs::AnyToken, Needs::Call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::{DescriptorPool, MethodDescriptor};
    use prost_types::MethodOptions;
    use prost_types::method_options::IdempotencyLevel;
    use std::collections::BTreeMap;

    fn methods() -> BTreeMap<String, MethodDescriptor> {
        let types = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        let services: Vec<_> = types.services().collect();
        let methods = services.iter().flat_map(|service| {
            let methods = service.methods();
            methods.map(|it| (format!("{}/{}", service.full_name(), it.name()), it))
        });
        methods.collect()
    }

    #[test]
    fn every_call_of_the_contracts_needs_a_scope() {
        let methods = methods();
        let known: Vec<_> = methods.keys().map(String::as_str).collect();
        let mut listed = CALLS.map(|call| call.name);
        listed.sort_unstable();
        assert_eq!(listed.to_vec(), known);
        for call in &CALLS {
            assert!(!call.scopes.is_empty(), "{}", call.name);
        }
    }

    #[test]
    fn a_call_of_a_back_end_is_noted_unless_the_contract_says_that_it_only_reads() {
        let methods = methods();
        for call in CALLS.iter().filter(|it| it.name.starts_with("chat.v1.")) {
            let method = methods[call.name].method_descriptor_proto();
            let level = method
                .options
                .as_ref()
                .map(MethodOptions::idempotency_level);
            let only_reads = level == Some(IdempotencyLevel::NoSideEffects);
            assert_eq!(call.writes, !only_reads, "{}", call.name);
        }
    }

    #[test]
    fn a_call_of_connectors_needs_the_scope_of_connectors_alone() {
        for call in CALLS.iter().filter(|it| it.name.starts_with("connector.")) {
            assert_eq!(call.scopes, CONNECTOR, "{}", call.name);
            assert_eq!(call.about, About::Others, "{}", call.name);
        }
    }

    #[test]
    fn what_destroys_something_or_shuts_somebody_out_needs_admin() {
        for name in [
            "TrimHistory",
            "DeleteChannel",
            "DrainConnector",
            "BlockUser",
            "UnblockUser",
            "RevokeTokens",
        ] {
            let call = CALLS
                .iter()
                .find(|it| it.name.rsplit('/').next() == Some(name))
                .unwrap();
            assert_eq!(call.scopes, ADMIN, "{name}");
        }
    }

    #[test]
    fn a_path_that_looks_like_an_open_one_is_not_open() {
        for path in [
            "/grpc.health.v1.Health",
            "//grpc.health.v1.Health/Check",
            "/grpc.health.v1.HealthX/Check",
            "/GRPC.health.v1.Health/Check",
            "/chat.v1.ChatService/Nothing",
            "/chat.v1.ChatService/Send/",
            "//chat.v1.ChatService/Send",
            "",
            "*",
        ] {
            assert_eq!(needs(path), Needs::AnyToken, "{path}");
        }
        assert_eq!(needs("/grpc.health.v1.Health/Watch"), Needs::Nothing);
        let send = needs("/chat.v1.ChatService/Send");
        assert!(matches!(send, Needs::Call(call) if call.scopes == SEND));
    }
}
