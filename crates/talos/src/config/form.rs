//! Texts of a certain form, which Talos's loader refuses in any other.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::redact::REDACTED;
use super::yaml::{Kind, Scalar, Value};

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `10.0.0.1:51820`
    AddressAndPort,
    /// `80` or `100-200`
    Ports,
    /// `main`, `local`, `default`, or a number up to 252.
    RoutingTable,
    /// `10GiB`
    Bytes,
    /// `10GiB` or `80%`
    BytesOrPercent,
    /// Base64, or what stands in the place of a redacted key.
    Base64,
    /// `bc:24:11:00:00:01`
    Octets,
}

impl Form {
    /// What a field of this form is to hold, for people.
    pub fn expected(self) -> &'static str {
        match self {
            Self::AddressAndPort => "an address with a port such as 10.0.0.1:51820",
            Self::Ports => "a port such as 80 or a range such as 100-200",
            Self::RoutingTable => "a routing table: main, local, default, unspec or a number from 1 to 252",
            Self::Bytes => "a size such as 10GiB",
            Self::BytesOrPercent => "a size such as 10GiB or 80%",
            Self::Base64 => "base64",
            Self::Octets => "octets in hex such as bc:24:11:00:00:01",
        }
    }

    /// The value a field makes of a scalar; `None` if the scalar has another form.
    pub(super) fn conform(self, scalar: &Scalar) -> Option<Value> {
        let text = if scalar.kind() == Kind::Null { "" } else { scalar.text() };
        match self {
            Self::Ports => ports(scalar),
            _ if text.is_empty() => Some(Value::from("")),
            Self::AddressAndPort => text.parse::<SocketAddr>().ok().map(|_| Value::from(text)),
            Self::RoutingTable => is_table(text).then(|| Value::from(text)),
            Self::Bytes => is_bytes(text).then(|| Value::Scalar(scalar.clone())),
            Self::BytesOrPercent => (is_percent(text) || is_bytes(text)).then(|| Value::Scalar(scalar.clone())),
            Self::Base64 => (text == REDACTED || STANDARD.decode(text).is_ok()).then(|| Value::from(text)),
            Self::Octets => hex::decode(text.replace(':', "")).is_ok().then(|| Value::from(text)),
        }
    }
}

fn ports(scalar: &Scalar) -> Option<Value> {
    let port = |text: &str| text.parse::<u16>().ok();
    let is_number = scalar.whole_number().is_some_and(|number| u16::try_from(number).is_ok());
    let is_range =
        || scalar.text().split_once('-').is_some_and(|(low, high)| port(low).is_some() && port(high).is_some());
    (is_number || is_range()).then(|| Value::Scalar(scalar.clone()))
}

fn is_table(text: &str) -> bool {
    let number = || text.parse::<u8>().ok().filter(|number| (1..=252).contains(number));
    matches!(text, "unspec" | "default" | "main" | "local") || number().is_some_and(|number| number.to_string() == text)
}

fn is_percent(text: &str) -> bool {
    let number = text.strip_suffix('%').map(|rest| rest.strip_prefix('-').unwrap_or(rest));
    number.and_then(|number| number.parse::<f64>().ok()).is_some_and(|number| (0.0..=100.0).contains(&number))
}

/// A number with digit groups or a fraction, and a unit: decimal `kB`, `MB`, … or binary `KiB`, `MiB`, ….
fn is_bytes(text: &str) -> bool {
    const UNITS: [&str; 26] = [
        "", "b", "k", "kb", "ki", "kib", "m", "mb", "mi", "mib", "g", "gb", "gi", "gib", "t", "tb", "ti", "tib", "p",
        "pb", "pi", "pib", "e", "eb", "ei", "eib",
    ];
    let text = text.strip_prefix('-').unwrap_or(text);
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ',');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim().to_lowercase();
    number.replace(',', "").parse::<f64>().is_ok() && UNITS.contains(&unit.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_takes_its_own_texts_only() {
        let takes = |form: Form, text: &str| form.conform(&Scalar::plain(text)).is_some();
        for (form, right, wrong) in [
            (Form::AddressAndPort, &["10.0.0.1:80", "[fd00::1]:51820", ""][..], &["10.0.0.1", "host:80"][..]),
            (Form::Ports, &["80", "100-200"], &["x", "65536", "1-70000", ""]),
            (Form::RoutingTable, &["main", "100", "252"], &["none", "0", "253", "007"]),
            (Form::Bytes, &["10GiB", "1.5 TB", "1,024", "-1", "1024", "5k"], &["x", "50%", "10 parsecs", "GiB"]),
            (Form::BytesOrPercent, &["80%", "10GiB"], &["101%", "%", "x"]),
            (Form::Base64, &["QUJD", "******", ""], &["!!", "x"]),
            (Form::Octets, &["bc:24:11:00:00:01", "BC241100"], &["bc:2", "xx:yy"]),
        ] {
            assert!(right.iter().all(|text| takes(form, text)), "{form:?} {right:?}");
            assert!(wrong.iter().all(|text| !takes(form, text)), "{form:?} {wrong:?}");
        }
        assert!(Form::Ports.conform(&Scalar::string("443")).is_none(), "a range in quotes, not a number");
    }
}
