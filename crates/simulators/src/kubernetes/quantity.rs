//! Kubernetes quantities: `500m`, `2`, `4Gi`, `1.5G`.

use serde_json::Value;

/// A CPU quantity in thousandths of a core, rounded up.
pub(crate) fn cpu_millis(value: &Value) -> u64 {
    (parse(value) * 1000.0).ceil() as u64
}

/// A memory or storage quantity in bytes.
pub(crate) fn bytes_of(value: &Value) -> u64 {
    parse(value) as u64
}

fn parse(value: &Value) -> f64 {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let number: f64 = text[..split].parse().unwrap_or(0.0);
    let factor = match &text[split..] {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        exponent => exponent.strip_prefix(['e', 'E']).and_then(|it| it.parse().ok()).map_or(1.0, |it| 10_f64.powi(it)),
    };
    number * factor
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_in_every_notation() {
        assert_eq!(cpu_millis(&json!("250m")), 250);
        assert_eq!(cpu_millis(&json!(2)), 2000);
        assert_eq!(cpu_millis(&json!("0.1")), 100);
        assert_eq!(bytes_of(&json!("4Gi")), 4 << 30);
        assert_eq!(bytes_of(&json!("1e3")), 1000);
        assert_eq!(bytes_of(&json!("128974848")), 128_974_848);
    }
}
