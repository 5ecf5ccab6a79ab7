//! The Debian packages of connector, chat and standalone: they hold what there is, and what their units start. In the long run they are
//! built, installed in a Debian of their own, started, updated, removed and purged.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::{binaries, workspace};

const SERVICES: [&str; 3] = ["connector", "chat", "standalone"];

/// What the Cargo.toml of each service says about its package.
fn packages() -> BTreeMap<String, Value> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(workspace())
        .output()
        .expect("cargo starts");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let described = packages.filter(|package| package["metadata"]["deb"].is_object());
    described
        .map(|package| {
            let name = package["name"].as_str().expect("a name").to_owned();
            (name, package["metadata"]["deb"].clone())
        })
        .collect()
}

/// The files of a package: where each comes from, and where it goes.
fn assets(package: &Value) -> Vec<(String, String)> {
    let assets = package["assets"].as_array().expect("assets").iter();
    assets
        .map(|asset| {
            let [from, to] = [0, 1].map(|it| asset[it].as_str().expect("a path").to_owned());
            (from, to)
        })
        .collect()
}

#[test]
fn every_package_has_a_binary_its_unit_its_settings_and_nothing_that_is_missing() {
    let packages = packages();
    let names: Vec<_> = packages.keys().map(String::as_str).collect();
    assert_eq!(names, ["chat", "connector", "standalone"]);
    for (service, package) in &packages {
        let name = format!("global-channels-{service}");
        assert_eq!(package["name"], name);
        let assets = assets(package);
        for (from, _) in &assets {
            let is_there = match from.strip_suffix("/*.md") {
                _ if from == &format!("target/release/{service}") => true,
                Some(folder) => workspace().join(service).join(folder).is_dir(),
                None => workspace().join(service).join(from).is_file(),
            };
            assert!(is_there, "{name}: {from}");
        }
        // Each is installed once, in the folder in which something looks for it.
        let to = |ending: &str| {
            let found: Vec<_> = assets
                .iter()
                .filter(|(from, _)| from.ends_with(ending))
                .collect();
            assert_eq!(found.len(), 1, "{name}: {ending}");
            found[0].clone()
        };
        let (unit, folder) = to(".service");
        assert_eq!(folder, "usr/lib/systemd/system/");
        let unit = fs::read_to_string(workspace().join(service).join(unit)).expect("a unit");
        let (_, folder) = to(&format!("release/{service}"));
        assert!(
            unit.contains(&format!("ExecStart=/{folder}{service}\n")),
            "{name}"
        );
        let (_, folder) = to(".toml");
        let settings = format!("/{folder}{service}.toml");
        assert!(
            unit.contains(&format!("_CONFIG={settings}\n")),
            "{name}: {settings}"
        );
        // An update must not overwrite them.
        assert_eq!(package["conf-files"], serde_json::json!([settings]));
        let pages = format!("usr/share/doc/{name}/");
        let place = format!("Documentation=file:/{pages}");
        let page = unit.lines().find_map(|line| line.strip_prefix(&place));
        let page = page.expect("the unit names a page of the package");
        assert!(workspace().join("docs").join(page).is_file(), "{page}");
        assert_eq!(to("/*.md").1, pages);
    }
}

#[test]
fn the_scripts_of_the_packages_can_be_read_by_any_shell() {
    for (service, package) in packages() {
        let folder = package["maintainer-scripts"].as_str().expect("scripts");
        for script in ["postinst", "prerm", "postrm"] {
            let path = workspace().join(&service).join(folder).join(script);
            let text = fs::read_to_string(&path).expect("the script can be read");
            assert!(
                text.starts_with("#!/bin/sh\nset -e\n"),
                "{}",
                path.display()
            );
            let read = Command::new("sh").arg("-n").arg(&path).status();
            assert!(read.expect("sh starts").success(), "{}", path.display());
        }
    }
}

/// Builds the packages of the present binaries into this folder.
fn build(folder: &Path) {
    let binaries = binaries::directory().parent().expect("cargo's folder");
    for service in SERVICES {
        let output = Command::new("cargo")
            .args([
                "deb",
                "--no-build",
                "--strip",
                "--fast",
                "--quiet",
                "-p",
                service,
                "-o",
            ])
            .arg(folder)
            .env("CARGO_TARGET_DIR", binaries)
            .current_dir(workspace())
            .output()
            .expect("cargo starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo deb -p {service}: {said}");
    }
}

#[test]
#[ignore = "makes a Debian to install them in, and needs root: ./tests/run --long"]
fn the_packages_are_installed_started_updated_removed_and_purged() {
    let folder = tempfile::tempdir().expect("a directory");
    let packages = folder.path().join("packages");
    fs::create_dir(&packages).expect("a directory");
    build(&packages);
    let output = Command::new(workspace().join("tests/deploy/try-packages"))
        .arg(&packages)
        .arg(folder.path().join("debian"))
        .output()
        .expect("the script starts");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
