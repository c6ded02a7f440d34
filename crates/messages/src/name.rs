//! The names that requests carry, each with its own type; parsed at the edge.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Why a text is not a name of that kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} must be 1 to {longest} lower-case letters, digits and hyphens, starting with a letter, not ending with a hyphen"
)]
pub struct Error {
    what: &'static str,
    longest: usize,
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                if is_label(text, $longest) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Error { what: $what, longest: $longest })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": concat!($what, ": a DNS label"),
                    "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$",
                    "maxLength": $longest
                })
            }
        }
    };
}

label!(
    /// A cluster's name; short enough that `<cluster>-<pool>-<number>` is a DNS label.
    ClusterName,
    "a cluster name",
    40
);
label!(
    /// A pool's name within its cluster.
    PoolName,
    "a pool name",
    16
);
label!(
    /// A node's name: VM name = hostname = Kubernetes Node name.
    NodeName,
    "a node name",
    63
);

fn is_label(text: &str, longest: usize) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match text.as_bytes() {
        [first, .., last] if text.len() <= longest => {
            first.is_ascii_lowercase() && inside(*last) && text.bytes().all(|b| inside(b) || b == b'-')
        }
        [only] => only.is_ascii_lowercase(),
        _ => false,
    }
}

/// A Proxmox VM id, 100 to 999999999. Written as a string, as the first handoffs did; read as string or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "VmIdText", into = "String")]
pub struct VmId(pub u32);

#[derive(Deserialize)]
#[serde(untagged)]
enum VmIdText {
    Number(u32),
    Text(String),
}

impl TryFrom<VmIdText> for VmId {
    type Error = String;

    fn try_from(text: VmIdText) -> Result<Self, String> {
        let number = match text {
            VmIdText::Number(number) => Some(number),
            VmIdText::Text(text) => text.parse().ok(),
        };
        number
            .filter(|id| (100..=999_999_999).contains(id))
            .map(Self)
            .ok_or_else(|| "a VM id must be a number from 100 to 999999999".to_owned())
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.0.to_string()
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for VmId {
    fn schema_name() -> Cow<'static, str> {
        "VmId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Proxmox VM id, 100 to 999999999; a number or its decimal text",
            "anyOf": [
                { "type": "string", "pattern": "^[1-9][0-9]{2,8}$" },
                { "type": "integer", "minimum": 100, "maximum": 999_999_999 }
            ]
        })
    }
}

/// Added to any moment, it is a moment still.
const LONGEST: jiff::SignedDuration = jiff::SignedDuration::from_hours(100 * 365 * 24);

/// A length of time as people write it: `30s`, `10m`, `2h`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub jiff::SignedDuration);

impl Period {
    /// The same length as the standard library's type; a period is never negative.
    pub fn to_std(self) -> std::time::Duration {
        self.0.unsigned_abs()
    }
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let period = text.parse::<jiff::SignedDuration>().ok().filter(|period| period.is_positive());
        let period = period.ok_or_else(|| "a period must look like 30s, 10m, 2h or 1h30m".to_owned())?;
        if period > LONGEST {
            return Err(format!("a period must be at most {}h (a hundred years)", LONGEST.as_hours()));
        }
        Ok(Self(period))
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        format!("{:#}", period.0).replace(' ', "")
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A length of time: 30s, 10m, 2h, 1h30m",
            "pattern": "^([0-9]+(ms|s|m|h))+$",
            "examples": ["30s", "10m", "2h"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "prod-k8s", "c1"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "A", "a_b", "a.b", &"a".repeat(41)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn vm_ids_are_read_from_text_and_number_and_written_as_text() {
        for json in ["\"100\"", "100"] {
            assert_eq!(serde_json::from_str::<VmId>(json).unwrap(), VmId(100));
        }
        assert!(serde_json::from_str::<VmId>("99").is_err());
        assert_eq!(serde_json::to_string(&VmId(100)).unwrap(), "\"100\"");
    }

    #[test]
    fn periods_round_trip() {
        for text in ["30s", "10m", "2h", "1h30m"] {
            let period: Period = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(period).unwrap(), text);
        }
        assert!(serde_json::from_value::<Period>("soon".into()).is_err());
        assert!(serde_json::from_value::<Period>("876000h".into()).is_ok());
        for long in ["876000h1ms", "99999999h"] {
            let refused = serde_json::from_value::<Period>(long.into()).unwrap_err().to_string();
            assert_eq!(refused, "a period must be at most 876000h (a hundred years)", "{long}");
        }
    }
}
