//! Texts that nobody would write on purpose: parsers answer with a problem, never with a panic.

use engine::{expression::Expression, playbook::Playbook, template::Template, yaml::Place};
use proptest::prelude::*;
use serde_json::json;

use crate::semantics::DIAMOND;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_playbook_with_a_part_replaced_is_read_or_refused(at in 0..DIAMOND.len(), cut in 0_usize..40, part in ".{0,20}") {
        let text: String = DIAMOND.chars().take(at).chain(part.chars()).chain(DIAMOND.chars().skip(at + cut)).collect();
        if let Err(problems) = Playbook::parse("p.yaml", &text) {
            prop_assert!(!problems.0.is_empty());
        }
    }

    #[test]
    fn any_text_is_an_expression_or_is_refused(source in "[a-z0-9 .()\\[\\]{}'\"+*?:!<>=&|,_-]{0,60}") {
        if let Ok(expression) = Expression::compile(&source) {
            let input = json!({"a": [1, "x", {"b": null}]});
            let _ = expression.evaluate(&|name| (name == "input").then_some(&input));
            let _ = expression.steps();
        }
        let _ = Template::compile_text(&format!("a ${{{source}}} b"), Place::default());
    }
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["[".repeat(10_000), "{a: ".repeat(10_000), format!("steps: {}", "- ".repeat(10_000))] {
        assert!(Playbook::parse("p.yaml", &text).is_err());
    }
    assert!(Expression::compile(&"(".repeat(1_000)).is_err());
    let _ = Expression::compile(&format!("{}1{}", "(".repeat(900), ")".repeat(900)));
    let _ = Expression::compile(&format!("{}true", "!".repeat(1_900)));
}
