//! Changes an input at random: bits, ranges, lines, numbers, words of its format, parts of other inputs.

use rand::{Rng, rngs::StdRng};

/// Inputs do not grow beyond this.
const LONGEST: usize = 48 * 1024;

/// What every format has trouble with.
const ODD: [&str; 30] = [
    "",
    " ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\"",
    "'",
    "\\",
    "\\u0000",
    "\u{202e}",
    "é",
    "🦀",
    "null",
    "~",
    "true",
    "-1",
    "0",
    "18446744073709551616",
    "-9223372036854775809",
    "1e400",
    "0x1f",
    "NaN",
    "[]",
    "{}",
    "${",
    "}",
    "&a *a",
    "%2F",
    "../",
];

pub(super) struct Mutator<'a> {
    pub(super) words: &'a [&'a str],
    pub(super) others: &'a [&'a [u8]],
}

impl Mutator<'_> {
    /// One change.
    pub(super) fn change(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        match random.random_range(0..11_u32) {
            0 => flip(input, random),
            1 => remove(input, random),
            2 => repeat(input, random),
            3 => self.splice(input, random),
            4 | 5 => self.insert(input, random),
            6 => self.replace_number(input, random),
            7 => lines(input, random),
            8 => nest(input, random),
            9 => self.replace_word(input, random),
            _ => input.truncate(place(input, random)),
        }
        input.truncate(LONGEST);
    }

    fn word(&self, random: &mut StdRng) -> &str {
        let words = ODD.len() + self.words.len();
        let chosen = random.random_range(0..words);
        ODD.get(chosen).copied().unwrap_or_else(|| self.words[chosen - ODD.len()])
    }

    fn insert(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        let at = place(input, random);
        let word = self.word(random).as_bytes().to_vec();
        input.splice(at..at, word);
    }

    fn splice(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        let other = self.others[random.random_range(0..self.others.len())];
        let part = range(other, random);
        let at = range(input, random);
        input.splice(at, other[part].to_vec());
    }

    fn replace_number(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        let found = runs(input, |byte| byte.is_ascii_digit());
        self.replace_one(input, &found, random);
    }

    fn replace_word(&self, input: &mut Vec<u8>, random: &mut StdRng) {
        let found = runs(input, |byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        self.replace_one(input, &found, random);
    }

    fn replace_one(&self, input: &mut Vec<u8>, found: &[std::ops::Range<usize>], random: &mut StdRng) {
        if found.is_empty() {
            return;
        }
        let at = found[random.random_range(0..found.len())].clone();
        // With a word of its own, or with another of the same input.
        let word = if random.random_bool(0.5) {
            self.word(random).as_bytes().to_vec()
        } else {
            input[found[random.random_range(0..found.len())].clone()].to_vec()
        };
        input.splice(at, word);
    }
}

/// Runs of bytes of a kind.
fn runs(input: &[u8], is_of_kind: fn(u8) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut begin = None;
    for at in 0..=input.len() {
        let inside = input.get(at).copied().is_some_and(is_of_kind);
        match (begin, inside) {
            (None, true) => begin = Some(at),
            (Some(from), false) => {
                found.push(from..at);
                begin = None;
            }
            _ => {}
        }
    }
    found
}

fn place(input: &[u8], random: &mut StdRng) -> usize {
    random.random_range(0..=input.len())
}

fn range(input: &[u8], random: &mut StdRng) -> std::ops::Range<usize> {
    let from = place(input, random);
    let longest = (input.len() - from).min(64);
    from..from + random.random_range(0..=longest)
}

fn flip(input: &mut [u8], random: &mut StdRng) {
    if !input.is_empty() {
        let at = random.random_range(0..input.len());
        input[at] ^= 1 << random.random_range(0..8_u32);
    }
}

fn remove(input: &mut Vec<u8>, random: &mut StdRng) {
    let part = range(input, random);
    input.drain(part);
}

fn repeat(input: &mut Vec<u8>, random: &mut StdRng) {
    let part = input[range(input, random)].to_vec();
    let at = place(input, random);
    let times = [1, 2, 40][random.random_range(0..3_usize)];
    input.splice(at..at, part.repeat(times));
}

/// A line goes, comes twice, changes its place or its indentation.
fn lines(input: &mut Vec<u8>, random: &mut StdRng) {
    let mut lines: Vec<Vec<u8>> = input.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return;
    }
    let (at, other) = (random.random_range(0..lines.len()), random.random_range(0..lines.len()));
    match random.random_range(0..5_u32) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(other, lines[at].clone()),
        2 => lines.swap(at, other),
        3 => lines[at].splice(0..0, *b"  ").for_each(drop),
        _ => {
            let spaces = lines[at].iter().take(2).take_while(|byte| **byte == b' ').count();
            lines[at].drain(..spaces);
        }
    }
    *input = lines.concat();
}

fn nest(input: &mut Vec<u8>, random: &mut StdRng) {
    let (open, close) =
        [("[", "]"), ("{\"a\":", "}"), ("(", ")"), ("- ", ""), ("!", "")][random.random_range(0..5_usize)];
    let depth = [2, 60, 130, 3_000][random.random_range(0..4_usize)];
    let part = range(input, random);
    let inner = input[part.clone()].to_vec();
    let nested = [open.repeat(depth).into_bytes(), inner, close.repeat(depth).into_bytes()].concat();
    input.splice(part, nested);
}
