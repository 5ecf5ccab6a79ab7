//! The product's binaries. Each test process builds them once from the sources as they are, so no test runs a stale one.
//!
//! This costs a second if they are built already, because cargo is asked for the same as by `cargo build --release
//! --workspace --bins`, and the scenarios depend on the same crates with the same features (tests/Cargo.toml).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

static BINARIES: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(build);

/// Where the binary of this name is.
///
/// # Panics
/// When the workspace doesn't build, or has no such binary.
#[must_use]
pub fn path(name: &str) -> &'static Path {
    BINARIES
        .get(name)
        .unwrap_or_else(|| panic!("the workspace has no binary {name}"))
}

/// The directory that cargo put them into.
///
/// # Panics
/// As [`path`].
#[must_use]
pub fn directory() -> &'static Path {
    path("standalone")
        .parent()
        .expect("a binary lies in a directory")
}

fn build() -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    forget_the_test(&mut command);
    let output = command
        .args(["build", "--release", "--workspace", "--bins"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(crate::workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "the workspace does not build");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let executable = message.get("executable")?.as_str()?;
            let name = message.get("target")?.get("name")?.as_str()?;
            Some((name.to_owned(), PathBuf::from(executable)))
        })
        .collect()
}

/// Takes out of a command's environment what cargo has set to tell a test which package it belongs to. Build scripts of some
/// dependencies ask for such variables, so with them a build would compile those dependencies again, and so would the next
/// one without.
pub(crate) fn forget_the_test(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if tells_of_the_test(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
}

fn tells_of_the_test(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || [
            "CARGO_CRATE_NAME",
            "CARGO_PRIMARY_PACKAGE",
            "OUT_DIR",
            // With this the test's own program can be asked how long each test takes (--report-time).
            "RUSTC_BOOTSTRAP",
        ]
        .contains(&variable)
}
