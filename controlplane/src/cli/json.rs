//! Messages as JSON: the names of the .proto files, every field, numbers as numbers, and prefixes as people write them.

use levee_api::grpc::{DESCRIPTORS, v1};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use super::client::CallError;
use super::prefix_text;

/// A message of package `levee.v1`.
pub(super) fn of(name: &str, message: &impl Message) -> Result<Value, CallError> {
    let wrong = |error: &dyn std::fmt::Display| CallError::Here(format!("{name} cannot be told as JSON: {error}"));
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| wrong(&error))?;
    let full = format!("levee.v1.{name}");
    let descriptor = pool.get_message_by_name(&full).ok_or_else(|| wrong(&"it is not part of the contract"))?;
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|error| wrong(&error))?;
    let options =
        SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false).stringify_64_bit_integers(false);
    let value = message.serialize_with_options(serde_json::value::Serializer, &options);
    Ok(readable(value.map_err(|error| wrong(&error))?))
}

/// The same as text: one object, indented.
pub(super) fn text(name: &str, message: &impl Message) -> Result<String, CallError> {
    Ok(format!("{:#}\n", of(name, message)?))
}

/// Prefixes as text.
fn readable(value: Value) -> Value {
    match value {
        Value::Object(fields) if is_prefix(&fields) => {
            let address = fields.get("address").and_then(Value::as_str).and_then(decoded);
            let length = fields.get("length").and_then(Value::as_u64).and_then(|length| u32::try_from(length).ok());
            match (address, length) {
                (Some(address), Some(length)) => Value::String(prefix_text(&v1::Prefix { address, length })),
                _ => Value::Object(fields),
            }
        }
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, readable(value))).collect(),
        Value::Array(values) => values.into_iter().map(readable).collect(),
        other => other,
    }
}

fn is_prefix(fields: &serde_json::Map<String, Value>) -> bool {
    fields.len() == 2 && fields.contains_key("address") && fields.contains_key("length")
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
