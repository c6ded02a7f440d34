//! The table of calls and parameters that `schema.tsv` holds, and how a path finds its call.

use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock},
};

use regex::Regex;

use super::version::Version;

/// The whole schema, parsed once.
pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("schema.tsv")));

#[derive(Debug, Default)]
pub(crate) struct Schema {
    calls: Vec<Call>,
    groups: HashMap<&'static str, Vec<Property>>,
}

/// One method of one path.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) template: &'static str,
    /// Handled by the node named in the path rather than by the one that was asked.
    pub(crate) proxied: bool,
    privilege: &'static str,
    privilege_8: Option<&'static str>,
    only: Option<Version>,
    params: Vec<Property>,
}

/// One parameter, or one key of a property string.
#[derive(Clone, Debug)]
pub(crate) struct Property {
    /// Without the `[n]` of an indexed one.
    pub(crate) name: &'static str,
    pub(crate) indexes: Option<(u32, u32)>,
    pub(crate) rules: Rules,
    rules_8: Option<Rules>,
    pub(crate) group: Option<&'static str>,
    only: Option<Version>,
}

/// What a value must satisfy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) kind: &'static str,
    pub(crate) required: bool,
    pub(crate) format: Option<&'static str>,
    pattern: Option<Pattern>,
    pub(crate) choices: Vec<&'static str>,
    pub(crate) min: Option<&'static str>,
    pub(crate) max: Option<&'static str>,
    pub(crate) min_length: Option<usize>,
    pub(crate) max_length: Option<usize>,
    pub(crate) requires: Option<&'static str>,
    pub(crate) alias: Option<&'static str>,
    pub(crate) key_alias: Option<&'static str>,
    pub(crate) default_key: bool,
}

impl Schema {
    fn parse(text: &'static str) -> Self {
        let mut schema = Self::default();
        let mut group = "";
        for line in text.lines() {
            let mut cells = line.split('\t');
            let kind = cells.next().unwrap_or_default();
            let cells: Vec<&'static str> = cells.collect();
            let cell = |index: usize| cells.get(index).copied().unwrap_or_default();
            match kind {
                "G" => group = cell(0),
                "S" => {
                    let property = Property::parse(cell(0), [cell(1), cell(2), cell(3), "", cell(4)]);
                    schema.groups.entry(group).or_default().push(property);
                }
                "C" => schema.calls.push(Call::parse([cell(0), cell(1), cell(3), cell(4), cell(5)])),
                "P" => {
                    let property = Property::parse(cell(0), [cell(1), cell(2), cell(3), cell(4), cell(5)]);
                    if let Some(call) = schema.calls.last_mut() {
                        call.params.push(property);
                    }
                }
                _ => {}
            }
        }
        schema
    }

    /// The call a path belongs to, with the values of its variables.
    pub(crate) fn find(
        &self,
        method: &str,
        path: &str,
        version: Version,
    ) -> Option<(&Call, Vec<(&'static str, String)>)> {
        let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let candidates = self.calls.iter().filter(|call| call.method == method && exists(call.only, version));
        candidates
            .filter_map(|call| Some((call, call.matches(&segments)?)))
            .min_by_key(|(_, variables)| variables.len())
    }

    /// The keys of a property string.
    pub(crate) fn group(&self, name: &str) -> &[Property] {
        self.groups.get(name).map_or(&[], Vec::as_slice)
    }

    /// The keys of the property string that a parameter of a call holds.
    pub(crate) fn group_of(&self, method: &str, template: &str, param: &str) -> &[Property] {
        let call = self.calls.iter().find(|call| call.method == method && call.template == template);
        let group = call.and_then(|call| call.params.iter().find(|p| p.name == param)?.group);
        group.map_or(&[], |group| self.group(group))
    }

    #[cfg(test)]
    pub(crate) fn calls(&self) -> &[Call] {
        &self.calls
    }
}

impl Call {
    fn parse([method, template, flags, privilege, version]: [&'static str; 5]) -> Self {
        Self {
            method,
            template,
            proxied: flags.contains("proxyto=node"),
            privilege,
            privilege_8: version.strip_prefix("~privilege="),
            only: only(version),
            params: Vec::new(),
        }
    }

    pub(crate) fn privilege(&self, version: Version) -> &'static str {
        self.privilege_8.filter(|_| version.is_8()).unwrap_or(self.privilege)
    }

    /// The parameters that exist in a version.
    pub(crate) fn params(&self, version: Version) -> impl Iterator<Item = &Property> {
        self.params.iter().filter(move |property| exists(property.only, version))
    }

    fn matches(&self, segments: &[&str]) -> Option<Vec<(&'static str, String)>> {
        let mut variables = Vec::new();
        let mut rest = segments;
        for part in self.template.split('/').filter(|part| !part.is_empty()) {
            let (first, tail) = rest.split_first()?;
            match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                // A volume id holds slashes: its variable takes all that is left.
                Some("volume") => {
                    variables.push(("volume", rest.join("/")));
                    rest = &[];
                    continue;
                }
                Some(name) => variables.push((name, (*first).to_owned())),
                None if part == *first => {}
                None => return None,
            }
            rest = tail;
        }
        rest.is_empty().then_some(variables)
    }
}

impl Property {
    /// From type, required, limits, group and version.
    fn parse(name: &'static str, [kind, required, limits, group, version]: [&'static str; 5]) -> Self {
        let rules = Rules::parse(kind, required == "1", limits);
        let rules_8 = version.strip_prefix('~').map(|changes| {
            let change = |key: &str| changes.split(" / ").find_map(|change| change.strip_prefix(key));
            let required = change("required=").map_or(required == "1", |text| text == "yes");
            Rules::parse(change("type=").unwrap_or(kind), required, change("limits=").unwrap_or(limits))
        });
        let indexes = name.strip_suffix("[n]").map(|_| {
            let range = limits.split(" ; ").find_map(|part| part.strip_prefix("n=")).unwrap_or("0..0");
            let (low, high) = range.split_once("..").unwrap_or(("0", "0"));
            (low.parse().unwrap_or(0), high.parse().unwrap_or(0))
        });
        let name = name.strip_suffix("[n]").unwrap_or(name);
        Self {
            name,
            indexes,
            rules,
            rules_8,
            group: Some(group).filter(|group| !group.is_empty()),
            only: only(version),
        }
    }

    pub(crate) fn rules(&self, version: Version) -> &Rules {
        self.rules_8.as_ref().filter(|_| version.is_8()).unwrap_or(&self.rules)
    }

    pub(crate) fn exists(&self, version: Version) -> bool {
        exists(self.only, version)
    }

    /// Whether a key is this property; `scsi31` is none, as each index is a property of its own.
    pub(crate) fn covers(&self, key: &str) -> bool {
        let Some((low, high)) = self.indexes else { return key == self.name };
        let Some(index) = key.strip_prefix(self.name) else { return false };
        let canonical = index == "0" || !index.starts_with('0');
        canonical
            && index.bytes().all(|b| b.is_ascii_digit())
            && index.parse().is_ok_and(|i: u32| (low..=high).contains(&i))
    }
}

impl Rules {
    fn parse(kind: &'static str, required: bool, limits: &'static str) -> Self {
        let mut rules = Self { kind, required, ..Self::default() };
        for part in limits.split(" ; ") {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "format" => rules.format = Some(value),
                "re" => rules.pattern = Some(Pattern { source: value, compiled: OnceLock::new() }),
                "enum" => rules.choices = value.split('|').collect(),
                "min" => rules.min = Some(value),
                "max" => rules.max = Some(value),
                "minLen" => rules.min_length = value.parse().ok(),
                "maxLen" => rules.max_length = value.parse().ok(),
                "requires" => rules.requires = Some(value),
                "alias" => rules.alias = Some(value),
                "keyAlias" => rules.key_alias = Some(value),
                "default_key" => rules.default_key = true,
                _ => {}
            }
        }
        rules
    }
}

/// A pattern of the table, compiled when a value is first matched against it.
#[derive(Clone, Debug)]
struct Pattern {
    source: &'static str,
    compiled: OnceLock<Option<Regex>>,
}

impl Rules {
    /// Whether a value fits the pattern; without one everything fits.
    pub(crate) fn fits_pattern(&self, value: &str) -> bool {
        let Some(pattern) = &self.pattern else { return true };
        let compiled = pattern.compiled.get_or_init(|| compile(pattern.source).ok());
        compiled.as_ref().is_none_or(|regex| regex.is_match(value))
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{})$", from_perl(pattern)))
}

/// Perl's printed `(?^:…)` groups, open lower bounds and class names in the syntax of the regex crate, ASCII only.
fn from_perl(pattern: &str) -> String {
    let pattern = pattern.replace("(?^:", "(?:").replace("(?^i:", "(?i:").replace("{,", "{0,");
    let mut out = String::new();
    let mut in_class = false;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let class = match (c, chars.as_str().chars().next()) {
            ('\\', Some('w')) => "0-9A-Za-z_",
            ('\\', Some('d')) => "0-9",
            ('\\', Some(escaped)) => {
                out.extend([c, escaped]);
                chars.next();
                continue;
            }
            _ => {
                in_class = c == '[' || in_class && c != ']';
                out.push(c);
                continue;
            }
        };
        chars.next();
        out.push_str(&if in_class { class.to_owned() } else { format!("[{class}]") });
    }
    out
}

fn only(version: &str) -> Option<Version> {
    match version {
        "9" => Some(Version::V9),
        "8" => Some(Version::V8),
        _ => None,
    }
}

fn exists(only: Option<Version>, version: Version) -> bool {
    only.is_none_or(|only| only == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_of_the_table_compiles() {
        let patterns =
            include_str!("schema.tsv").lines().flat_map(|line| line.split(['\t'])).flat_map(|cell| cell.split(" ; "));
        let patterns: Vec<_> = patterns.filter_map(|limit| limit.strip_prefix("re=")).collect();
        assert!(patterns.len() > 50);
        for pattern in patterns {
            compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        }
    }

    #[test]
    fn paths_find_their_calls_and_static_parts_win() {
        let find = |method, path| SCHEMA.find(method, path, Version::V9).map(|(call, vars)| (call.template, vars));
        let (template, vars) = find("GET", "/nodes/pve1//qemu/100/config/").unwrap();
        assert_eq!(template, "/nodes/{node}/qemu/{vmid}/config");
        assert_eq!(vars, [("node", "pve1".to_owned()), ("vmid", "100".to_owned())]);
        let (_, vars) = find("DELETE", "/nodes/a/storage/local/content/local:iso/x.iso").unwrap();
        assert_eq!(vars[2].1, "local:iso/x.iso");
        assert!(find("PATCH", "/version").is_none());
        assert!(SCHEMA.find("GET", "/cluster/ha/rules", Version::V8).is_none());
        assert!(SCHEMA.calls().len() > 200);
    }

    #[test]
    fn an_index_beyond_its_range_is_another_name() {
        let (call, _) = SCHEMA.find("POST", "/nodes/a/qemu", Version::V9).unwrap();
        let knows = |key: &str| call.params(Version::V9).any(|p| p.covers(key));
        assert!(knows("scsi30") && knows("net0") && knows("numa") && knows("numa7"));
        assert!(!knows("scsi31") && !knows("net") && !knows("scsi01"));
    }
}
