//! `docs/openapi.json` describes the calls of back ends over HTTP, for tools that know OpenAPI and not protobuf. It is made of the
//! contract's descriptors, with the comments of the .proto files. Everything that it says of one field or call stands there.

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind,
    MessageDescriptor, MethodDescriptor,
};
use prost_types::method_options::IdempotencyLevel;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::{env, fs};

const PACKAGE: &str = "chat.v1";
/// Set this in the environment to write the file instead of comparing it.
const WRITE: &str = "OPENAPI_WRITE";

#[test]
fn the_openapi_file_says_what_the_contract_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let types = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).expect("the descriptors");
    let made = document(&types);
    if env::var_os(WRITE).is_some() {
        let text = serde_json::to_string_pretty(&made).expect("JSON");
        fs::write(file, text + "\n").expect("docs/openapi.json can be written");
        return;
    }
    let committed = fs::read_to_string(file).expect("docs/openapi.json is there");
    let committed: Value = serde_json::from_str(&committed).expect("docs/openapi.json is JSON");
    assert!(
        committed == made,
        "docs/openapi.json does not say what the contract says. To write it again, run:\n  \
         {WRITE}=1 cargo test --release -p proto --test openapi"
    );
}

/// The whole file.
fn document(types: &DescriptorPool) -> Value {
    let mut document = Document::default();
    let services = types.services().filter(|it| it.package_name() == PACKAGE);
    let mut tags = Vec::new();
    for service in services {
        let description = comment(&service.parent_file(), service.path());
        tags.push(json!({ "name": service.full_name(), "description": description }));
        // A stream of requests can be sent over gRPC alone.
        let methods = service.methods().filter(|it| !it.is_client_streaming());
        methods.for_each(|it| document.add_method(&it));
    }
    let about = "The calls of back ends over HTTP. docs/api.md shows them by example.";
    json!({
        "openapi": "3.1.0",
        "info": { "title": PACKAGE, "description": about, "version": env!("CARGO_PKG_VERSION") },
        "servers": [{ "url": "http://127.0.0.1:4001" }],
        "tags": tags,
        "paths": document.paths,
        // A chat without a file of tokens needs none.
        "security": [{}, { "Token": [] }],
        "components": {
            "schemas": document.schemas,
            "parameters": { "Timeout": timeout(), "Encoding": encoding() },
            "responses": { "Error": error() },
            "securitySchemes": { "Token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

#[derive(Default)]
struct Document {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Document {
    fn add_method(&mut self, method: &MethodDescriptor) {
        let service = method.parent_service();
        let input = self.message(&method.input());
        let output = self.message(&method.output());
        let content = if method.is_server_streaming() {
            let stream = json!({ "schema": output });
            json!({ "application/x-ndjson": stream, "text/event-stream": stream })
        } else {
            json!({ "application/json": { "schema": output } })
        };
        let described = comment(&service.parent_file(), method.path());
        let operation = |id: &str, more: Value| {
            let mut operation = json!({
                "operationId": format!("{}{id}", method.full_name()),
                "tags": [service.full_name()],
                "description": described,
                "parameters": [{ "$ref": "#/components/parameters/Timeout" }],
                "responses": {
                    "200": { "description": "The answer.", "content": content.clone() },
                    "default": { "$ref": "#/components/responses/Error" },
                },
            });
            merge(&mut operation, more);
            operation
        };
        let body =
            json!({ "required": true, "content": { "application/json": { "schema": input } } });
        let mut item = json!({ "post": operation("", json!({ "requestBody": body })) });
        let options = method.method_descriptor_proto().options.clone();
        let level = options.unwrap_or_default().idempotency_level();
        if level == IdempotencyLevel::NoSideEffects {
            let parameters = json!([
                { "$ref": "#/components/parameters/Timeout" },
                { "$ref": "#/components/parameters/Encoding" },
                { "name": "message", "in": "query", "required": true, "description": "The request.",
                  "content": { "application/json": { "schema": input } } },
            ]);
            item["get"] = operation(".get", json!({ "parameters": parameters }));
        }
        let path = format!("/{}/{}", service.full_name(), method.name());
        self.paths.insert(path, item);
    }

    /// A reference to a message, which is described once.
    fn message(&mut self, message: &MessageDescriptor) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => {
                return json!({ "type": "string", "format": "date-time" });
            }
            "google.protobuf.Duration" => {
                return json!({ "type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$" });
            }
            "google.protobuf.Struct" => {
                return json!({ "type": "object", "additionalProperties": true });
            }
            "google.protobuf.Any" => {
                let of = json!({ "@type": { "type": "string" } });
                return json!({ "type": "object", "properties": of, "additionalProperties": true });
            }
            _ => {}
        }
        let name = message.full_name().to_owned();
        if !self.schemas.contains_key(&name) {
            // It is there before its fields are described, so that a message may hold itself.
            self.schemas.insert(name.clone(), Value::Null);
            let fields = message.fields();
            let properties = fields.map(|it| (it.json_name().to_owned(), self.field(&it)));
            let properties: Map<_, _> = properties.collect();
            let mut schema = json!({
                "type": "object",
                "description": comment(&message.parent_file(), message.path()),
                "properties": properties,
                "additionalProperties": false,
            });
            if let Some(oneofs) = exclusions(message) {
                schema["allOf"] = oneofs;
            }
            self.schemas.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = match field.kind() {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "format": "int32" })
            }
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0 }),
            // Answers have strings, because JavaScript's numbers are doubles.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": ["string", "integer"], "format": "int64" })
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({ "type": ["string", "integer"], "format": "uint64" })
            }
            Kind::Float | Kind::Double => json!({ "type": "number" }),
            Kind::Enum(of) => self.enumeration(&of),
            Kind::Message(of) => self.message(&of),
        };
        assert!(
            !field.is_map(),
            "maps are not described yet: {}",
            field.full_name()
        );
        if field.cardinality() == Cardinality::Repeated {
            schema = json!({ "type": "array", "items": schema });
        }
        let parent = field.parent_message();
        schema["description"] = comment(&parent.parent_file(), field.path()).into();
        schema
    }

    fn enumeration(&mut self, of: &EnumDescriptor) -> Value {
        let name = of.full_name().to_owned();
        let file = of.parent_file();
        let values: Vec<_> = of.values().map(|it| it.name().to_owned()).collect();
        let told = of
            .values()
            .map(|it| format!("- {}: {}", it.name(), comment(&file, it.path())));
        let told: Vec<_> = told.collect();
        let description = format!("{}\n\n{}", comment(&file, of.path()), told.join("\n"));
        let schema = json!({ "type": "string", "enum": values, "description": description });
        self.schemas.insert(name.clone(), schema);
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

/// Of the fields of a oneof there is one at most.
fn exclusions(message: &MessageDescriptor) -> Option<Value> {
    let oneofs = message.oneofs().filter(|it| !it.is_synthetic());
    let mut all = Vec::new();
    for oneof in oneofs {
        let names: Vec<_> = oneof.fields().map(|it| it.json_name().to_owned()).collect();
        let mut choices: Vec<_> = names.iter().map(|it| json!({ "required": [it] })).collect();
        choices.push(json!({ "not": { "anyOf": choices.clone() } }));
        all.push(json!({ "oneOf": choices }));
    }
    (!all.is_empty()).then(|| all.into())
}

/// The comment in the .proto file, in paragraphs.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let source = file.file_descriptor_proto().source_code_info.as_ref();
    let locations = source.map_or(&[][..], |it| &it.location);
    let found = locations.iter().find(|it| it.path == path);
    let lines = found.map_or("", |it| it.leading_comments());
    let lines: Vec<_> = lines.lines().map(str::trim).collect();
    let paragraphs = lines.split(|line| line.is_empty()).map(|it| it.join(" "));
    let paragraphs: Vec<_> = paragraphs.filter(|it| !it.is_empty()).collect();
    paragraphs.join("\n\n")
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

fn timeout() -> Value {
    json!({
        "name": "connect-timeout-ms", "in": "header", "required": false,
        "description": "How long the caller waits, in milliseconds.",
        "schema": { "type": "integer", "minimum": 1, "maximum": 9_999_999_999_u64 },
    })
}

fn encoding() -> Value {
    json!({
        "name": "encoding", "in": "query", "required": true,
        "description": "How the message is written.", "schema": { "const": "json" },
    })
}

/// As in the Connect protocol.
fn error() -> Value {
    let text = json!({ "type": "string" });
    let detail = json!({
        "type": "object", "required": ["type", "value"],
        "properties": { "type": text, "value": text, "debug": { "type": "object" } },
    });
    let schema = json!({
        "type": "object", "required": ["code"],
        "properties": {
            "code": { "type": "string", "description": "The code of gRPC, in lower case." },
            "message": text,
            "details": { "type": "array", "items": detail },
        },
    });
    json!({
        "description": "The call was refused, or its outcome is unknown. A detail of the type google.rpc.ErrorInfo has the reason.",
        "content": { "application/json": { "schema": schema } },
    })
}
