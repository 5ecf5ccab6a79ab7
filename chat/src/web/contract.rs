//! The methods that can be called over HTTP, as the contract for back ends describes them.

use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool, MessageDescriptor, MethodDescriptor};
use prost_types::field_descriptor_proto::Type;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodOptions};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The package whose services are offered over HTTP. Connectors have gRPC alone.
const PACKAGE: &str = "chat.v1";

/// All methods by their paths, and the types that answers may hold.
pub(crate) struct Contract {
    methods: BTreeMap<String, Arc<Method>>,
    pub(super) types: DescriptorPool,
}

/// One method.
#[derive(Debug)]
pub(crate) struct Method {
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    /// True if it takes a stream of messages. Such a method can be called over gRPC alone.
    pub(super) takes_stream: bool,
    /// True if it answers with a stream of messages.
    pub(super) gives_stream: bool,
    /// True if it has no side effects, so that it may be called by GET.
    pub(super) only_reads: bool,
}

impl Contract {
    /// # Errors
    /// The descriptors that were compiled in are not complete, which is a fault of the build.
    pub(crate) fn load() -> Result<Self, DescriptorError> {
        Self::of(
            PACKAGE,
            &DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET)?,
        )
    }

    /// All methods of a package.
    pub(super) fn of(package: &str, types: &DescriptorPool) -> Result<Self, DescriptorError> {
        let mut files: Vec<_> = types.file_descriptor_protos().cloned().collect();
        files.iter_mut().for_each(keep_values_encoded);
        let mut types =
            DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file: files })?;
        add_details(&mut types)?;
        let methods = types
            .services()
            .filter(|service| service.package_name() == package)
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| (path(&method), Arc::new(Method::new(&method))))
            .collect();
        Ok(Self { methods, types })
    }

    pub(super) fn method(&self, path: &str) -> Option<&Arc<Method>> {
        self.methods.get(path)
    }
}

impl Method {
    fn new(method: &MethodDescriptor) -> Self {
        let description = method.method_descriptor_proto();
        let level = (description.options.as_ref()).map(MethodOptions::idempotency_level);
        Self {
            only_reads: level == Some(IdempotencyLevel::NoSideEffects),
            input: method.input(),
            output: method.output(),
            takes_stream: method.is_client_streaming(),
            gives_stream: method.is_server_streaming(),
        }
    }
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Makes the values inside `Struct` and `ListValue` bytes, which are encoded in the same way. Their JSON is read and written
/// by the names of these two types, whatever they consist of. As messages, these values would cost a kilobyte each, and a body
/// may have a hundred thousand.
fn keep_values_encoded(file: &mut FileDescriptorProto) {
    if file.package() != "google.protobuf" {
        return;
    }
    for message in &mut file.message_type {
        let list = match message.name() {
            "Struct" => "fields",
            "ListValue" => "values",
            _ => continue,
        };
        message.nested_type.clear();
        for field in message.field.iter_mut().filter(|it| it.name() == list) {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
}

/// Adds the messages that details of errors consist of.
fn add_details(types: &mut DescriptorPool) -> Result<(), DescriptorError> {
    let set = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET);
    let files = set.map(|set| set.file).unwrap_or_default();
    for file in files {
        let is_known = file.message_type.iter().any(|message| {
            let name = format!("{}.{}", file.package(), message.name());
            types.get_message_by_name(&name).is_some()
        });
        if !is_known {
            types.add_file_descriptor_proto(file)?;
        }
    }
    Ok(())
}

/// The paths that can be called, for people.
impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods = self.methods.iter();
        let possible = methods.filter(|(_, method)| !method.takes_stream);
        for (index, (path, _)) in possible.enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{path}")?;
        }
        Ok(())
    }
}
