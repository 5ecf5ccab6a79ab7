//! Files in YAML, read by libraries of Python.

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
    read("tests/clients", &[], files)
}

/// The documents of manifests, which fit the schemas of Kubernetes.
///
/// # Panics
/// The same, or if one does not fit.
#[must_use]
pub fn manifests(files: &[&Path]) -> Vec<Value> {
    read("tests/deploy", &["--kubernetes"], files)
}

/// `installed` is the folder with the libraries.
fn read(installed: &str, flags: &[&str], files: &[&Path]) -> Vec<Value> {
    let output = Command::new(workspace().join(installed).join(".venv/bin/python"))
        .arg(workspace().join("tests/deploy/manifests.py"))
        .args(flags)
        .args(files)
        .output()
        .expect("./tests/run installs the libraries");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    serde_json::from_slice(&output.stdout).expect("a list of documents")
}
