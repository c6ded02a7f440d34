//! Scalars and what their text means to Talos's YAML parser.

/// What the text of a scalar resolves to when nothing else gives it a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Int,
    Float,
    Timestamp,
    String,
}

/// A scalar: its text (after unquoting) and what it resolves to.
#[derive(Clone, Debug)]
pub struct Scalar {
    text: String,
    kind: Kind,
    line: usize,
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && (self.kind == Kind::Null || self.text == other.text)
    }
}

impl Scalar {
    /// A string, whatever its text looks like.
    pub fn string(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: Kind::String, line: 0 }
    }

    /// Unquoted text, typed by what it looks like.
    pub fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind: resolve(&text), text, line: 0 }
    }

    pub fn null() -> Self {
        Self { text: "null".to_owned(), kind: Kind::Null, line: 0 }
    }

    pub(super) fn at_line(self, line: usize) -> Self {
        Self { line, ..self }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn line(&self) -> usize {
        self.line
    }

    /// The same text as a string: what a field typed as a string makes of it.
    pub fn into_string_kind(self) -> Self {
        Self { kind: Kind::String, ..self }
    }

    /// The boolean a field typed as boolean makes of it; the old spellings `yes`, `on`, … count there.
    pub fn boolean(&self) -> Option<bool> {
        match self.text.as_str() {
            // In quotes these are no booleans, unlike the old spellings.
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" if self.kind == Kind::String => None,
            "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    /// The integer it stands for, in any of the notations of [`Kind::Int`].
    pub fn integer(&self) -> Option<i64> {
        (self.kind == Kind::Int).then(|| integer(&self.text)).flatten()
    }

    /// The same, or the whole number a float such as `1e3` stands for.
    pub fn whole_number(&self) -> Option<i64> {
        self.integer().or_else(|| {
            let float: f64 = (self.kind == Kind::Float).then(|| self.text.parse().ok()).flatten()?;
            // Up to 2^53 a float holds every whole number.
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
            (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
        })
    }

    /// True if a Go field of a scalar type would hold its zero value.
    pub fn is_zero(&self) -> bool {
        match self.kind {
            Kind::Null => true,
            Kind::String => self.text.is_empty(),
            Kind::Int => self.integer() == Some(0),
            Kind::Float => self.text.parse() == Ok(0.0),
            Kind::Bool => self.boolean() == Some(false),
            Kind::Timestamp => false,
        }
    }
}

impl From<bool> for Scalar {
    fn from(truth: bool) -> Self {
        Self { text: truth.to_string(), kind: Kind::Bool, line: 0 }
    }
}

impl From<i64> for Scalar {
    fn from(number: i64) -> Self {
        Self { text: number.to_string(), kind: Kind::Int, line: 0 }
    }
}

/// The type of a plain scalar.
pub(super) fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Bool,
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => Kind::Float,
        _ if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) => Kind::String,
        _ if is_timestamp(text) => Kind::Timestamp,
        _ if integer(text).is_some() => Kind::Int,
        _ if is_float(text) => Kind::Float,
        _ => Kind::String,
    }
}

/// True if a parser of YAML 1.1 would read this plain text as a boolean, a sexagesimal number or a merge key.
pub(super) fn is_ambiguous_in_yaml_1_1(text: &str) -> bool {
    matches!(
        text,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF"
    ) || is_sexagesimal(text)
        || text == "<<"
}

fn integer(text: &str) -> Option<i64> {
    let cleaned = text.replace('_', "");
    let (negative, digits) = match cleaned.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, cleaned.strip_prefix('+').unwrap_or(&cleaned)),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some(octal) if octal.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    // Go also takes what fits an unsigned 64-bit integer; nothing in a machine configuration does.
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn is_float(text: &str) -> bool {
    let text = text.replace('_', "");
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let all_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction) && (whole.len() + fraction.len()) > 0,
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    mantissa_fits && exponent_fits
}

/// `2001-01-01` and everything that starts like it and goes on as a time.
fn is_timestamp(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let digits = |part: &str, range: std::ops::RangeInclusive<usize>| {
        range.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let day_length = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits(year, 4..=4)
        && digits(month, 1..=2)
        && (1..=2).contains(&day_length)
        && (rest.len() == day_length
            || (rest[day_length..].starts_with(['T', 't', ' ', '\t']) && rest[day_length..].contains(':')))
}

/// `1:30`, `190:20:30.15`: numbers to base 60 in YAML 1.1.
fn is_sexagesimal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let is_first = first.starts_with(|digit: char| digit.is_ascii_digit())
        && first.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let is_sixtieth = |part: &str| {
        (1..=2).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse().is_ok_and(|value: u8| value < 60)
    };
    let Some((last, middle)) = rest.split_last() else { return false };
    let (last, fraction) = last.split_once('.').unwrap_or((last, ""));
    is_first
        && middle.iter().all(|part| is_sixtieth(part))
        && is_sixtieth(last)
        && fraction.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
}
