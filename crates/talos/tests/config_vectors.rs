//! Every vector that Talos's own library produced gives the same text here, byte for byte.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may panic")]

use secrecy::ExposeSecret;
use talos::config::yaml::{self, Mapping, Value};
use talos::config::{MachineConfig, Mode, Patch};
use talos::version::Minor;

/// The line whose library made the vectors: v1.13.9.
const MINOR: Minor = Minor::V1_13;

fn vectors() -> Mapping {
    let text = include_str!("talos-vectors.yaml");
    match yaml::parse(text).unwrap().remove(0) {
        Value::Mapping(root) => root,
        other => panic!("{other:?}"),
    }
}

fn named<'a>(root: &'a Mapping, section: &str) -> Vec<(&'a str, &'a Mapping)> {
    let vectors = root.sequence(section).iter().map(|vector| vector.as_mapping().unwrap());
    vectors.map(|vector| (vector.text("name").unwrap(), vector)).collect()
}

/// What the library did with a patch: the resulting text, or the error and where it came up.
fn patch_outcome(base: &str, patch: &str) -> Result<String, (String, &'static str)> {
    let base = MachineConfig::parse(base, MINOR).unwrap();
    let patch = Patch::parse(patch, MINOR).map_err(|error| (error.talos_text(), "load patch"))?;
    let patched = base.patched(&patch).map_err(|error| (error.talos_text(), "apply"))?;
    Ok(patched.to_yaml().expose_secret().to_owned())
}

fn validation_outcome(config: &str, mode: Mode) -> Result<(), (String, &'static str)> {
    let config = MachineConfig::parse(config, MINOR).map_err(|error| (error.talos_text(), "load"))?;
    config.validate(mode).map(|_| ()).map_err(|error| (error.to_string(), "validate"))
}

fn expected_error(vector: &Mapping) -> Option<(String, &str)> {
    vector.text("error").map(|error| (error.to_owned(), vector.text("error_at").unwrap()))
}

#[test]
fn every_patch_vector_gives_the_same_text() {
    let root = vectors();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, vector) in named(&root, "patch") {
        let base = root.mapping("bases").unwrap().text(vector.text("base").unwrap()).unwrap();
        let outcome = patch_outcome(base, vector.text("patch").unwrap_or_default());
        let expected = match expected_error(vector) {
            Some(error) => Err(error),
            None => Ok(vector.text("result").unwrap().to_owned()),
        };
        if outcome == expected {
            passed += 1;
        } else {
            failed.push(format!("{name}\n--- expected\n{expected:?}\n--- got\n{outcome:?}"));
        }
    }
    println!("patch vectors passed: {passed} of {}", passed + failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(passed, 33);
}

#[test]
fn every_validation_vector_gives_the_same_errors() {
    let root = vectors();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, vector) in named(&root, "valid") {
        let mode = match vector.text("mode") {
            Some("metal") => Mode::Metal,
            Some("cloud") => Mode::Cloud,
            Some("container") => Mode::Container,
            other => panic!("{name}: {other:?}"),
        };
        let outcome = validation_outcome(vector.text("config").unwrap(), mode).err();
        let expected = expected_error(vector);
        if outcome == expected {
            passed += 1;
        } else {
            failed.push(format!("{name}\n--- expected\n{expected:?}\n--- got\n{outcome:?}"));
        }
    }
    println!("validation vectors passed: {passed} of {}", passed + failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(passed, 16);
}
