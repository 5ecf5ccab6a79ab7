//! Files in YAML, read by the libraries in tests/deploy.

use crate::workspace;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The documents of files in YAML.
///
/// # Panics
/// If they can't be read, or the libraries are not installed.
#[must_use]
pub fn documents(files: &[&Path]) -> Vec<Value> {
    read(&[], files)
}

/// The documents of manifests, which fit the schemas of Kubernetes.
///
/// # Panics
/// The same, or if one does not fit.
#[must_use]
pub fn manifests(files: &[&Path]) -> Vec<Value> {
    read(&["--kubernetes"], files)
}

fn read(flags: &[&str], files: &[&Path]) -> Vec<Value> {
    let folder = workspace().join("tests/deploy");
    let output = Command::new(folder.join(".venv/bin/python"))
        .arg(folder.join("manifests.py"))
        .args(flags)
        .args(files)
        .output()
        .expect("./tests/run installs the libraries in tests/deploy");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    serde_json::from_slice(&output.stdout).expect("a list of documents")
}
