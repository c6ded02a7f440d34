//! What Talos checks before it takes a configuration, with the same texts (talos.md 5.5).
//!
//! Checks that need a running node (does the disk exist, is there such a link) are not here.

mod address;
mod cluster;
mod conflicts;
mod devices;
mod documents;
mod extras;
mod labels;
mod machine;
mod versions;

use std::fmt;

use super::MachineConfig;

/// Where a configuration is to run, which decides what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Bare metal: Talos installs itself.
    Metal,
    /// A cloud image, nocloud included: the disk comes with Talos.
    Cloud,
    Container,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metal => "metal",
            Self::Cloud => "cloud",
            Self::Container => "container",
        })
    }
}

/// Something Talos takes but advises against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Every reason why Talos would refuse a configuration; `Display` is the text it returns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Invalid {
    text: String,
    problems: Vec<String>,
}

impl Invalid {
    /// Each problem on its own, with the document in front unless it is the main one.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// A list of errors that prints as Go's `multierror` does.
#[derive(Debug, Default)]
struct Errors(Vec<String>);

impl Errors {
    fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    fn add_if(&mut self, is_wrong: bool, text: impl Into<String>) {
        if is_wrong {
            self.add(text);
        }
    }

    fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Adds a list as one error with a text in front.
    fn nest(&mut self, context: &str, other: &Self) {
        if !other.0.is_empty() {
            self.add(format!("{context}: {other}"));
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "1 error occurred:\n\t* {only}\n\n"),
            many => {
                write!(f, "{} errors occurred:\n\t", many.len())?;
                for (index, error) in many.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n\t" };
                    write!(f, "{separator}* {error}")?;
                }
                f.write_str("\n\n")
            }
        }
    }
}

pub(super) use versions::check as check_versions;

pub(super) fn validate(config: &MachineConfig, mode: Mode) -> Result<Vec<Warning>, Invalid> {
    let mut outer = Errors::default();
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    if let Some(main) = config.main() {
        let (main_errors, main_warnings) = machine::check(main.root(), config.minor(), mode);
        warnings.extend(main_warnings.into_iter().map(Warning));
        problems.extend(main_errors.0.iter().cloned());
        outer.nest("v1alpha1.Config", &main_errors);
    }
    for document in config.documents().iter().filter(|document| !document.is_main()) {
        let errors = documents::check(document, config.minor());
        problems.extend(errors.iter().map(|error| format!("{}: {error}", document.short_name())));
        if !errors.is_empty() {
            outer.add(format!("{}: {}", document.short_name(), errors.join("\n")));
        }
    }
    if let Some(main) = config.main() {
        for document in config.documents().iter().filter(|document| !document.is_main()) {
            if let Some(conflict) = conflicts::check(document, main.root()) {
                problems.push(conflict.clone());
                outer.add(conflict);
            }
        }
    }
    for problem in documents::check_together(config) {
        problems.push(problem.clone());
        outer.add(problem);
    }
    if outer.0.is_empty() { Ok(warnings) } else { Err(Invalid { text: outer.to_string(), problems }) }
}
