//! The images and the compose file in deploy/docker/. There need be no Docker here: a linter reads the Dockerfile, and services get the
//! settings that they would have in their containers.

use crate::example_settings::Named;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::{binaries, workspace, yaml};

const SERVICES: [&str; 3] = ["connector", "chat", "standalone"];

fn dockerfile() -> String {
    fs::read_to_string(workspace().join("deploy/docker/Dockerfile")).expect("it can be read")
}

/// The instructions of one stage, each on one line.
fn stage(name: &str) -> Vec<String> {
    let joined = dockerfile().replace("\\\n", " ");
    let lines = joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let stage = lines
        .skip_while(|line| !(line.starts_with("FROM ") && line.ends_with(&format!(" AS {name}"))));
    let rest = stage.skip(1).take_while(|line| !line.starts_with("FROM "));
    rest.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The variables that an image sets.
fn variables(stage: &[String]) -> BTreeMap<String, String> {
    let set = stage.iter().filter_map(|line| line.strip_prefix("ENV "));
    let words = set.flat_map(|line| line.split(' '));
    words
        .map(|word| word.split_once('=').expect("a variable and its value"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What a service says about the settings that it would start with; empty if it takes them.
fn complaints(service: &str, variables: &BTreeMap<String, String>) -> String {
    let output = Command::new(binaries::path(service))
        .args(["config", "show"])
        .envs(variables)
        .output()
        .expect("it starts");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), complaint.is_empty(), "{complaint}");
    complaint
}

fn compose() -> Value {
    let path: &Path = &workspace().join("deploy/docker/compose.yaml");
    yaml::documents(&[path]).remove(0)
}

#[test]
#[ignore = "needs dockerfilelint: ./tests/run --long"]
fn the_linter_finds_nothing_in_the_dockerfile() {
    let linter = workspace().join("tests/deploy/node_modules/.bin/dockerfilelint");
    let output = Command::new(linter)
        .arg(workspace().join("deploy/docker/Dockerfile"))
        .output()
        .expect("./tests/run installs the linter in tests/deploy");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[test]
fn every_image_is_checked_by_its_own_binary_and_runs_without_rights() {
    for service in SERVICES {
        let stage = stage(service);
        let binary = format!("/usr/local/bin/{service}");
        assert!(stage.contains(&format!(
            "COPY --from=build /source/target/release/{service} {binary}"
        )));
        assert!(stage.contains(&"USER 65532:65532".to_owned()), "{stage:?}");
        assert!(
            stage.contains(&format!("ENTRYPOINT [\"{binary}\"]")),
            "{stage:?}"
        );
        let check = stage.iter().find(|line| line.starts_with("HEALTHCHECK "));
        let check = check.expect("the image is checked");
        assert!(
            check.ends_with(&format!("CMD [\"{binary}\", \"health\"]")),
            "{check}"
        );
        // Each port that the variables name is said to be open.
        let exposed = stage.iter().find_map(|line| line.strip_prefix("EXPOSE "));
        let exposed: Vec<_> = exposed.expect("ports").split(' ').collect();
        let variables = variables(&stage);
        let named = variables
            .values()
            .filter_map(|it| it.strip_prefix("0.0.0.0:"));
        let mut named: Vec<_> = named.collect();
        named.sort_unstable();
        let mut sorted = exposed.clone();
        sorted.sort_unstable();
        assert_eq!(named, sorted);
    }
}

#[test]
fn a_container_without_credentials_says_what_is_missing_instead_of_being_open() {
    for (service, guard) in [
        ("connector", "--auth-mode"),
        ("chat", "--api-tokens-file"),
        ("standalone", "--api-tokens-file"),
    ] {
        let complaint = complaints(service, &variables(&stage(service)));
        assert!(complaint.contains(guard), "{service}: {complaint}");
    }
}

#[test]
fn services_take_the_settings_of_the_compose_file() {
    let named = Named::new();
    let compose = compose();
    let folder = tempfile::tempdir().expect("a directory");
    let settings = fs::read_to_string(workspace().join("deploy/docker/connector.toml"))
        .expect("it can be read");
    let file = folder.path().join("connector.toml");
    fs::write(&file, named.put_into(&settings)).expect("written");
    let mut checked = 0;
    for (name, service) in compose["services"].as_object().expect("services") {
        let Some(target) = service["build"]["target"].as_str() else {
            continue;
        };
        let mut variables = variables(&stage(target));
        for (key, value) in service["environment"].as_object().expect("variables") {
            let value = value.as_str().expect("text");
            let value = match value {
                "/etc/global-channels/connector.toml" => file.display().to_string(),
                other => named
                    .put_into(&format!("\"{other}\""))
                    .trim_matches('"')
                    .to_owned(),
            };
            variables.insert(key.clone(), value);
        }
        assert_eq!(complaints(target, &variables), "", "{name}");
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn the_compose_file_opens_ports_to_this_machine_alone_and_mounts_what_there_is() {
    let compose = compose();
    // In a copy, because the secrets of somebody who tries the file may be there.
    let copy = tempfile::tempdir().expect("a directory");
    let docker = copy.path().join("docker");
    fs::create_dir(&docker).expect("a directory");
    let original = workspace().join("deploy/docker");
    fs::copy(original.join("make-secrets"), docker.join("make-secrets")).expect("copied");
    let made = Command::new(docker.join("make-secrets"))
        .arg(binaries::path("chat"))
        .output();
    let made = made.expect("it starts");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );

    for (name, service) in compose["services"].as_object().expect("services") {
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().expect("text");
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
        }
        if service["build"].is_object() {
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().expect("text");
            let (source, rest) = volume.split_once(':').expect("a source and a place");
            if !source.starts_with('.') {
                assert!(
                    compose["volumes"]
                        .as_object()
                        .expect("volumes")
                        .contains_key(source),
                    "{source}"
                );
                continue;
            }
            assert!(rest.ends_with(":ro"), "{name}: {volume}");
            let folder = if source.contains("/secrets/") {
                &docker
            } else {
                &original
            };
            assert!(folder.join(source).exists(), "{name}: {source}");
        }
    }
}
