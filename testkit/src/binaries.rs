//! The product's binaries, built once in each test process from the sources as they are: a test never runs a stale one.

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
    let output = Command::new(cargo)
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
