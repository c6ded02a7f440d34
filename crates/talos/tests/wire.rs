//! The files in `proto/` say what Talos's own say: every service, message, field, number, type and label.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without may fail it")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// One line per service, message, enum and extension: kind, full name, contents.
const FACTS: &str = include_str!("wire-facts.tsv");

#[test]
fn every_message_and_method_is_the_one_talos_has() {
    let ours = described();
    let mut facts = BTreeMap::new();
    for line in FACTS.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.splitn(3, '\t');
        let key = format!("{} {}", columns.next().unwrap(), columns.next().unwrap());
        facts.entry(key).or_insert_with(Vec::new).push(columns.next().unwrap_or_default().to_owned());
    }
    let missing: Vec<_> = facts.keys().filter(|key| !ours.contains_key(*key)).collect();
    let surplus: Vec<_> = ours.keys().filter(|key| !facts.contains_key(*key)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:?}, surplus: {surplus:?}");
    let different: Vec<_> = facts
        .iter()
        .filter(|(key, fact)| ours[*key] != **fact)
        .map(|(key, fact)| format!("{key}\n  talos: {fact:?}\n  proto: {:?}", ours[key]))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(facts.len(), 640, "the table has lost rows");
}

fn described() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let compiled = protox::compile(&files, [&root]).unwrap();
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for file in &compiled.file {
        if file.package().starts_with("google.protobuf") || file.package().starts_with("google.api") {
            continue;
        }
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        describe_file(file, &mut |kind, name, facts| all.entry(format!("{kind} {name}")).or_default().push(facts));
    }
    all
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

type Tell<'a> = dyn FnMut(&str, &str, String) + 'a;

fn describe_file(file: &FileDescriptorProto, tell: &mut Tell<'_>) {
    for service in &file.service {
        tell("service", &format!("{}.{}", file.package(), service.name()), methods(service));
    }
    for message in &file.message_type {
        describe_message(file.package(), message, tell);
    }
    for of in &file.enum_type {
        tell("enum", &format!("{}.{}", file.package(), of.name()), values(of));
    }
    for extension in &file.extension {
        let fact = format!("{}:{}:{}", extension.number(), extension.name(), type_of(extension));
        tell("extension", extension.extendee().trim_start_matches('.'), fact);
    }
}

fn describe_message(parent: &str, message: &DescriptorProto, tell: &mut Tell<'_>) {
    let name = format!("{parent}.{}", message.name());
    let fields: Vec<_> = message.field.iter().map(|field| describe_field(message, field)).collect();
    let mark = deprecation(message.options.as_ref().is_some_and(|options| options.deprecated()));
    tell("message", &format!("{name}{mark}"), fields.join("; "));
    for nested in message.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
        describe_message(&name, nested, tell);
    }
    for of in &message.enum_type {
        tell("enum", &format!("{name}.{}", of.name()), values(of));
    }
}

fn describe_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        is_map_entry(nested)
            && field.type_name().rsplit('.').next() == Some(nested.name())
            && field.r#type() == Type::Message
    });
    let (label, of) = match (entry, field.oneof_index) {
        (Some(entry), _) => (String::new(), format!("map<{},{}>", type_of(&entry.field[0]), type_of(&entry.field[1]))),
        (None, _) if field.proto3_optional() => ("optional ".to_owned(), type_of(field)),
        (None, Some(index)) => {
            (format!("oneof:{} ", message.oneof_decl[usize::try_from(index).unwrap()].name()), type_of(field))
        }
        (None, None) if field.label() == Label::Repeated => ("repeated ".to_owned(), type_of(field)),
        (None, None) => (String::new(), type_of(field)),
    };
    let mark = deprecation(field.options.as_ref().is_some_and(|options| options.deprecated()));
    format!("{}:{}:{label}{of}{mark}", field.number(), field.name())
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn methods(service: &ServiceDescriptorProto) -> String {
    let stream = |is: bool| if is { "stream " } else { "" };
    let methods = service.method.iter().map(|method| {
        let mark = deprecation(method.options.as_ref().is_some_and(|options| options.deprecated()));
        format!(
            "{}:{}{} -> {}{}{mark}",
            method.name(),
            stream(method.client_streaming()),
            method.input_type().trim_start_matches('.'),
            stream(method.server_streaming()),
            method.output_type().trim_start_matches('.'),
        )
    });
    methods.collect::<Vec<_>>().join("; ")
}

fn values(of: &EnumDescriptorProto) -> String {
    let values = of.value.iter().map(|value| {
        let mark = deprecation(value.options.as_ref().is_some_and(|options| options.deprecated()));
        format!("{}={}{mark}", value.name(), value.number())
    });
    values.collect::<Vec<_>>().join(" ")
}

fn deprecation(is: bool) -> &'static str {
    if is { "!" } else { "" }
}
