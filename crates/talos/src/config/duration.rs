//! Durations in the notation of Go: `1h30m`, written back as `1h30m0s`.

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The canonical text of a duration, empty for zero; `None` if the text is none.
pub(super) fn normalize(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(String::new());
    }
    Some(format(parse(text)?))
}

/// How many seconds a duration has.
pub(super) fn seconds(text: &str) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a duration in a configuration is short")]
    parse(text).map(|nanoseconds| nanoseconds as f64 / 1e9)
}

fn parse(text: &str) -> Option<i128> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0;
    while !rest.is_empty() {
        let number_length = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, tail) = rest.split_at(number_length);
        let unit_length = tail.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
        let (unit, tail) = tail.split_at(unit_length);
        let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += scaled(number, *nanoseconds)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(if is_negative { -total } else { total })
}

/// A decimal number of units, in nanoseconds; digits below a nanosecond are cut off.
fn scaled(number: &str, nanoseconds: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || number.len() > 19 || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(digits(whole)? * nanoseconds + digits(fraction)? * nanoseconds / scale)
}

fn format(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let magnitude = nanoseconds.abs();
    if magnitude == 0 {
        return String::new();
    }
    for (unit, size, above) in [("ns", 1, 1_000), ("µs", 1_000, 1_000_000), ("ms", 1_000_000, 1_000_000_000)] {
        if magnitude < above {
            return format!("{sign}{}{unit}", decimal(magnitude, size));
        }
    }
    let minutes = magnitude / 60_000_000_000;
    let seconds = decimal(magnitude % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

fn decimal(value: i128, unit: i128) -> String {
    let width = unit.to_string().len() - 1;
    let fraction = format!("{:0width$}", value % unit);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { (value / unit).to_string() } else { format!("{}.{fraction}", value / unit) }
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let cases = [
            ("2m", "2m0s"),
            ("1h30m", "1h30m0s"),
            ("168h", "168h0m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("1500us", "1.5ms"),
            ("0s", ""),
            ("0", ""),
            ("-1m", "-1m0s"),
        ];
        for (text, expected) in cases {
            assert_eq!(normalize(text).as_deref(), Some(expected), "{text}");
        }
        for wrong in ["10", "m", "1x", "1..5s", "."] {
            assert_eq!(normalize(wrong), None, "{wrong}");
        }
    }
}
