//! Pages of `docs/reference` that are generated. `LEVEE_WRITE_DOCS=1` writes them.

use std::fmt::Write as _;
use std::path::Path;

use levee_api::grpc::DESCRIPTORS;
use levee_controlplane::server::metrics::{METRICS, Type};
use levee_controlplane::server::{METHODS, needed};
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type as FieldType};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

fn page(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
    if std::env::var_os("LEVEE_WRITE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{} is not what the program says: run with LEVEE_WRITE_DOCS=1", path.display());
}

#[test]
fn the_page_of_leveectl_is_what_it_says_itself() {
    page("leveectl.md", &levee_controlplane::cli::manual());
}

#[test]
fn the_page_of_metrics_lists_them_all() {
    let mut text = String::from(
        "# Metrics\n\nGenerated from the program. The control plane serves them for both planes at `/metrics`, on the address \
         `metrics` under `[controlplane]`;\nthose of the dataplane are missing while it does not answer, and \
         `levee_dataplane_up` is 0 then. Counters begin at zero when the plane that counts starts.\nHow to collect them: \
         [watch with Prometheus](../how-to/watch-with-prometheus.md).\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let kind = if metric.kind == Type::Counter { "counter" } else { "gauge" };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
    }
    page("metrics.md", &text);
}

#[test]
fn the_page_of_the_api_is_what_the_proto_files_say() {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files: Vec<&FileDescriptorProto> = files.file.iter().filter(|file| file.package() == "levee.v1").collect();
    let mut text = String::from(INTRODUCTION);
    for file in &files {
        for (index, service) in file.service.iter().enumerate() {
            let index = i32::try_from(index).unwrap();
            let _ = writeln!(
                text,
                "\n## Service {}\n\n{}\n\n| method | needs | takes, gives | |\n|---|---|---|---|",
                service.name(),
                comment(file, &[6, index])
            );
            for (number, method) in service.method.iter().enumerate() {
                let path = format!("/levee.v1.{}/{}", service.name(), method.name());
                let number = i32::try_from(number).unwrap();
                let stream = if method.server_streaming() { "stream of " } else { "" };
                let (takes, gives) = (short(method.input_type()), short(method.output_type()));
                let needs = needed(&path).unwrap();
                let about = comment(file, &[6, index, 2, number]);
                let _ =
                    writeln!(text, "| `{}` | {} | {takes}, {stream}{gives} | {about} |", method.name(), needs.key());
            }
        }
    }
    text.push_str("\n## Messages\n");
    for file in &files {
        for (index, message) in file.message_type.iter().enumerate() {
            describe(&mut text, file, message, message.name(), &[4, i32::try_from(index).unwrap()]);
        }
    }
    text.push_str("\n## Enumerations\n");
    for file in &files {
        for (index, one) in file.enum_type.iter().enumerate() {
            let index = i32::try_from(index).unwrap();
            let _ = writeln!(text, "\n### {}\n\n{}\n\n| value | |\n|---|---|", one.name(), comment(file, &[5, index]));
            for (number, value) in one.value.iter().enumerate() {
                let about = comment(file, &[5, index, 2, i32::try_from(number).unwrap()]);
                let _ = writeln!(text, "| `{}` | {about} |", value.name());
            }
        }
    }
    assert!(METHODS.len() > 20);
    page("api.md", &text);
}

const INTRODUCTION: &str = "# API\n\nGenerated from `api/proto/levee/v1`. gRPC, package `levee.v1`, on the unix socket `socket` under `[controlplane]`, for root and the group `levee`\n(mode 0660). Health (`grpc.health.v1`) and reflection are served too, so that tools such as grpcurl need no files.\n\n* **Who may call what**: the column *needs* names the key of `[controlplane.access]` that lists users and groups of the machine; each role\n  (viewer, operator, approver, admin) may do what those before it may, `captures` stands beside them. Root may do everything.\n* **Changes** take a `request_id`: the same id with the same request gets the same answer and does nothing, also after a restart; with another\n  request it is `ALREADY_EXISTS`. With `validate_only` nothing is done and nothing is remembered.\n* **Errors** are `google.rpc.Status` with details: `BadRequest` names every field that is wrong, `ResourceInfo` what does not exist, `ErrorInfo`\n  with reason `GUARDRAIL` the guardrail that refused, with value and limit.\n* **Limits**: 64 connections, of which an ordinary user has 16 and all of them together 48; more are hung up on, as is who says nothing for 10 s\n  after connecting. 16 calls at once and 32 streams on each, 1 MiB for a request, 16 KiB for headers; a peer that does not answer pings for 20 s\n  is gone.\n* **Times** are nanoseconds since 1970, from the wall clock of the appliance.\n";

fn describe(text: &mut String, file: &FileDescriptorProto, message: &DescriptorProto, name: &str, path: &[i32]) {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    let _ = writeln!(text, "\n### {name}\n\n{}", comment(file, path));
    if !message.field.is_empty() {
        text.push_str("\n| field | type | |\n|---|---|---|\n");
    }
    for (index, field) in message.field.iter().enumerate() {
        let about = comment(file, &[path, &[2, i32::try_from(index).unwrap()]].concat());
        let _ = writeln!(text, "| `{}` | {} | {about} |", field.name(), kind(message, field));
    }
    for (index, inner) in message.nested_type.iter().enumerate() {
        let path = [path, &[3, i32::try_from(index).unwrap()]].concat();
        describe(text, file, inner, &format!("{name}.{}", inner.name()), &path);
    }
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        FieldType::Message | FieldType::Enum => short(field.type_name()).to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    let is_map = message.nested_type.iter().any(|inner| {
        inner.options.as_ref().is_some_and(|options| options.map_entry()) && field.type_name().ends_with(inner.name())
    });
    match field.label() {
        Label::Repeated if is_map => "map of string to uint64".to_owned(),
        Label::Repeated => format!("list of {name}"),
        _ if field.proto3_optional() => format!("optional {name}"),
        _ => name,
    }
}

fn short(name: &str) -> &str {
    name.trim_start_matches(".levee.v1.")
}

/// The comment of one thing, on one line. Everything has one.
fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = &file.source_code_info.as_ref().unwrap().location;
    let location = locations.iter().find(|location| location.path == path);
    let comment = location.map(|location| location.leading_comments().trim()).unwrap_or_default();
    assert!(!comment.is_empty(), "{} {path:?} has no comment", file.name());
    comment.lines().map(str::trim).collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
