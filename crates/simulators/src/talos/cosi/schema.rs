//! The shapes of COSI specs and the resource types of each release, from the embedded tables.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::talos::release::Line;

/// A field of a spec.
#[derive(Debug)]
pub(crate) struct Field {
    /// Key in YAML; empty when the YAML is the field itself.
    pub(crate) key: &'static str,
    /// Left out of YAML when it holds its zero value.
    pub(crate) omit: bool,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    versions: &'static str,
}

/// How a field is encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    Bool,
    /// Any integer: a plain varint.
    Number,
    Enum,
    /// Hardware addresses, as text in YAML.
    Bytes,
    Ip,
    Prefix,
    Url,
    Pair,
    Key,
    Certificate,
    Strings,
    Struct,
    Duration,
    Message(&'static str),
    MapOf(&'static str),
}

/// A resource type as its ResourceDefinition describes it.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) kind: &'static str,
    pub(crate) display: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) sensitive: bool,
    pub(crate) aliases: Vec<&'static str>,
    pub(crate) columns: Vec<(&'static str, &'static str)>,
    versions: &'static str,
}

static FIELDS: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let mut structs: HashMap<&'static str, Vec<Field>> = HashMap::new();
    for columns in rows(include_str!("fields.tsv")) {
        structs.entry(columns[0]).or_default().push(Field {
            key: columns[1],
            omit: columns[2] == "omit",
            number: columns[3].parse().expect("the embedded table has numbers in column four"),
            kind: kind(columns[4]),
            repeated: columns[5] == "repeated",
            versions: columns[6],
        });
    }
    structs
});

static DEFINITIONS: LazyLock<Vec<Definition>> = LazyLock::new(|| {
    let definition = |columns: Vec<&'static str>| Definition {
        kind: columns[0],
        display: columns[1],
        namespace: columns[2],
        sensitive: columns[3] == "sensitive",
        aliases: columns[4].split(',').filter(|alias| !alias.is_empty()).collect(),
        columns: columns[5].split(';').filter_map(|column| column.split_once('=')).collect(),
        versions: columns[6],
    };
    rows(include_str!("definitions.tsv")).map(definition).collect()
});

/// The fields of a struct such as `block.DiskSpec` in a release line, in YAML order.
pub(crate) fn fields(name: &str, line: Line) -> impl Iterator<Item = &'static Field> {
    FIELDS.get(name).into_iter().flatten().filter(move |field| covers(field.versions, line))
}

/// The resource types of a release line.
pub(crate) fn definitions(line: Line) -> impl Iterator<Item = &'static Definition> {
    DEFINITIONS.iter().filter(move |definition| covers(definition.versions, line))
}

/// The definition of a type, whose letter case does not matter.
pub(crate) fn definition(kind: &str, line: Line) -> Option<&'static Definition> {
    definitions(line).find(|definition| definition.kind.eq_ignore_ascii_case(kind))
}

/// The namespaces of a release line, with their descriptions.
pub(crate) fn namespaces(line: Line) -> impl Iterator<Item = (&'static str, &'static str)> {
    const ALL: [(&str, &str); 18] = [
        ("meta", "COSI meta namespace"),
        ("runtime", "Talos runtime"),
        ("config", "Talos node configuration"),
        ("cluster", "Cluster configuration and discovery resources."),
        ("cluster-raw", "Cluster unmerged raw resources."),
        ("cri", "CRI configuration"),
        ("etcd", "etcd resources"),
        ("files", "Files and file-like resources."),
        ("hardware", "Hardware resources"),
        ("k8s", "Kubernetes all node types resources."),
        ("controlplane", "Kubernetes control plane resources."),
        ("kubespan", "KubeSpan resources"),
        ("network", "Networking resources"),
        ("network-config", "Networking configuration resources"),
        ("perf", "Stats resources"),
        ("secrets", "Resources with secret material"),
        ("security", "Security resources"),
        ("storage", "Storage resources"),
    ];
    let known = move |name: &str| match name {
        "security" => line >= Line::V1_13,
        "storage" => line >= Line::V1_14,
        _ => true,
    };
    let more = (line >= Line::V1_14).then_some(("containers", "Containers"));
    ALL.into_iter().filter(move |(name, _)| known(name)).chain(more)
}

impl Definition {
    /// Lower-case type: the id of the ResourceDefinition.
    pub(crate) fn id(&self) -> String {
        self.kind.to_lowercase()
    }

    /// The aliases a human may use, in the order that COSI makes them.
    pub(crate) fn all_own_aliases(&self) -> Vec<String> {
        let mut aliases: Vec<String> = self.aliases.iter().map(ToString::to_string).collect();
        aliases.push(self.display.to_lowercase());
        let upper: String = self.name().chars().filter(char::is_ascii_uppercase).collect();
        if upper.len() > 1 {
            aliases.push(upper.to_lowercase());
            if !upper.ends_with('S') {
                aliases.push(format!("{}s", upper.to_lowercase()));
            }
        }
        aliases
    }

    /// Plural name, name with each part of the suffix but the last, then the own aliases.
    pub(crate) fn all_aliases(&self) -> Vec<String> {
        let name = self.name().to_lowercase();
        let suffix: Vec<&str> = self.kind.split('.').skip(1).collect();
        let mut aliases = vec![name.clone()];
        aliases.extend((1..suffix.len()).map(|count| format!("{name}.{}", suffix[..count].join("."))));
        aliases.extend(self.all_own_aliases());
        aliases
    }

    fn name(&self) -> &'static str {
        self.kind.split('.').next().unwrap_or(self.kind)
    }
}

fn covers(versions: &str, line: Line) -> bool {
    versions == "all" || versions.split(',').any(|version| version == line.name())
}

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

fn kind(text: &'static str) -> Kind {
    match text {
        "string" => Kind::Text,
        "bool" => Kind::Bool,
        "enum" => Kind::Enum,
        "bytes" => Kind::Bytes,
        "ip" => Kind::Ip,
        "prefix" => Kind::Prefix,
        "url" => Kind::Url,
        "pair" => Kind::Pair,
        "key" => Kind::Key,
        "crt" => Kind::Certificate,
        "strings" => Kind::Strings,
        "struct" => Kind::Struct,
        "duration" => Kind::Duration,
        other => match other.split_once(':') {
            Some(("message", name)) => Kind::Message(name),
            Some(("map", name)) => Kind::MapOf(name),
            _ => Kind::Number,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_made_as_cosi_makes_them() {
        let statuses = definition("machinestatuses.runtime.talos.dev", Line::V1_13).unwrap();
        let expected =
            ["machinestatuses", "machinestatuses.runtime", "machinestatuses.runtime.talos", "machinestatus", "ms"];
        assert_eq!(statuses.all_aliases(), [&expected[..], &["mss"]].concat()[..].to_vec()[..5].to_vec());
        let disks = definition("Disks.block.talos.dev", Line::V1_13).unwrap();
        assert_eq!(disks.all_own_aliases(), ["disk"]);
    }

    #[test]
    fn releases_differ_in_their_types() {
        assert!(definition("BootIDs.runtime.talos.dev", Line::V1_13).is_none());
        assert!(definition("BootIDs.runtime.talos.dev", Line::V1_14).is_some());
        assert!(definitions(Line::V1_13).count() > 150);
    }
}
