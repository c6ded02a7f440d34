//! The committed schema of playbooks is what the types say, and the shipped playbooks fit it.
//!
//! `UPDATE_SCHEMAS=1 cargo test -p engine --test it schema` writes it.

use std::path::{Path, PathBuf};

use engine::playbook;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_committed_schema_is_what_the_types_say() {
    let file = root().join("schemas/playbook.v1.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&playbook::schema()).unwrap());
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == text, "schemas/playbook.v1.json is not what the types say; write it with UPDATE_SCHEMAS=1");
}

#[test]
fn the_shipped_playbooks_fit_the_committed_schema() {
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(root().join("schemas/playbook.v1.json")).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("playbooks")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "yaml") {
            let playbook: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let errors: Vec<_> = validator.iter_errors(&playbook).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 0);
}
