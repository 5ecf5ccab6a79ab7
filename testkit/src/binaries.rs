//! The product's binaries. Each test process builds them once from the present sources, so no test runs a stale binary.
//!
//! If they are already built, this takes a second: it is the same command as `cargo build --release --workspace
//! --bins`, and the scenarios depend on the same crates with the same features (tests/Cargo.toml).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

static BINARIES: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(build);

/// The path of a binary.
///
/// # Panics
/// If the workspace doesn't build, or has no such binary.
#[must_use]
pub fn path(name: &str) -> &'static Path {
    BINARIES
        .get(name)
        .unwrap_or_else(|| panic!("the workspace has no binary {name}"))
}

/// The directory of the binaries.
///
/// # Panics
/// Like [`path`].
#[must_use]
pub fn directory() -> &'static Path {
    path("standalone")
        .parent()
        .expect("a binary is in a directory")
}

fn build() -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    clear_test_variables(&mut command);
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

/// Removes the variables that cargo has set for the test's own package from the environment of a command. The build
/// scripts of some dependencies read such variables. So a build with them would compile those dependencies again, and
/// so would the next build without them.
pub(crate) fn clear_test_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_test_variable(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
}

fn is_test_variable(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || [
            "CARGO_CRATE_NAME",
            "CARGO_PRIMARY_PACKAGE",
            "OUT_DIR",
            // It is set when the test's own program is asked how long each test takes (--report-time).
            "RUSTC_BOOTSTRAP",
        ]
        .contains(&variable)
}
