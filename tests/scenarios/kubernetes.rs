//! The manifests in deploy/kubernetes/: they fit the schemas, name only what there is, and pods are probed, may end in peace, and have no
//! rights.

use crate::example_settings::longest_end;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::{workspace, yaml};

fn manifests() -> Vec<Value> {
    read_with(yaml::documents)
}

fn read_with(read: impl Fn(&[&Path]) -> Vec<Value>) -> Vec<Value> {
    let folder = workspace().join("deploy/kubernetes");
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let mut files: Vec<PathBuf> = entries.map(|it| it.expect("an entry").path()).collect();
    files.sort();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    read(&files)
}

fn of<'a>(manifests: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let found = manifests.iter().filter(|it| it["kind"] == kind);
    found.collect()
}

fn name(manifest: &Value) -> &str {
    manifest["metadata"]["name"].as_str().expect("a name")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The only container of a deployment.
fn container(deployment: &Value) -> &Value {
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

#[test]
#[ignore = "needs the schemas of Kubernetes: ./tests/run --long"]
fn the_schemas_of_kubernetes_allow_all_manifests() {
    let checked = read_with(yaml::manifests);
    assert_eq!(checked, manifests());
}

#[test]
fn the_manifests_are_in_one_namespace() {
    let manifests = manifests();
    for manifest in &manifests {
        let namespace = match manifest["kind"].as_str() {
            Some("Namespace") => name(manifest),
            _ => manifest["metadata"]["namespace"]
                .as_str()
                .unwrap_or_default(),
        };
        assert_eq!(namespace, "global-channels", "{manifest}");
    }
    let deployments: Vec<_> = of(&manifests, "Deployment").into_iter().map(name).collect();
    assert_eq!(deployments, ["chat", "connector"]);
}

#[test]
fn every_pod_is_probed_at_its_admin_port_and_has_time_to_end() {
    let manifests = manifests();
    let settings = &of(&manifests, "ConfigMap")
        .into_iter()
        .find(|it| name(it) == "settings")
        .expect("settings")["data"];
    for deployment in of(&manifests, "Deployment") {
        let service = name(deployment);
        let container = container(deployment);
        let admin = list(&container["ports"])
            .find(|it| it["name"] == "admin")
            .expect("an admin port");
        let settings = settings[format!("{service}.toml")]
            .as_str()
            .expect("settings");
        let listens = format!("admin = \"0.0.0.0:{}\"", admin["containerPort"]);
        assert!(settings.contains(&listens), "{service}: {listens}");
        for (probe, path) in [
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ] {
            let asked = &container[probe]["httpGet"];
            assert_eq!(
                (&asked["path"], &asked["port"]),
                (&path.into(), &"admin".into()),
                "{service}"
            );
        }
        // The pause before the signal counts, too. A connector makes its pause itself.
        let pod = &deployment["spec"]["template"]["spec"];
        let pause = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
        assert_eq!(pause.is_null(), service == "connector", "{service}");
        let pause = Duration::from_secs(pause.as_u64().unwrap_or_default());
        let grace = pod["terminationGracePeriodSeconds"].as_u64();
        let grace = Duration::from_secs(grace.expect("seconds"));
        let needed = pause + longest_end(service);
        assert!(grace > needed, "{service}: {grace:?}, needed {needed:?}");
        // Otherwise Kubernetes sets variables such as CHAT_PORT, which look like settings.
        assert_eq!(pod["enableServiceLinks"], false, "{service}");
    }
}

#[test]
fn pods_have_no_rights_and_are_kept_apart() {
    let manifests = manifests();
    let policies: Vec<_> = of(&manifests, "NetworkPolicy")
        .into_iter()
        .map(|it| it["spec"]["podSelector"].clone())
        .collect();
    for deployment in of(&manifests, "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], *labels);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        let may = &container(deployment)["securityContext"];
        assert_eq!(may["readOnlyRootFilesystem"], true);
        assert_eq!(may["allowPrivilegeEscalation"], false);
        assert_eq!(may["capabilities"]["drop"][0], "ALL");
        let apart = &pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
            [0];
        assert_eq!(
            apart["podAffinityTerm"]["labelSelector"]["matchLabels"],
            *labels
        );
        let budgets = of(&manifests, "PodDisruptionBudget");
        assert!(
            budgets
                .iter()
                .any(|it| it["spec"]["selector"]["matchLabels"] == *labels)
        );
        assert!(policies.iter().any(|it| it["matchLabels"] == *labels));
    }
    assert!(
        policies.contains(&serde_json::json!({})),
        "what no policy allows is refused"
    );
}

#[test]
fn the_manifests_name_only_what_there_is() {
    let manifests = manifests();
    let names = |kind| {
        of(&manifests, kind)
            .into_iter()
            .map(name)
            .collect::<BTreeSet<_>>()
    };
    let (maps, secrets) = (names("ConfigMap"), names("Secret"));
    for deployment in of(&manifests, "Deployment") {
        let container = container(deployment);
        for volume in list(&deployment["spec"]["template"]["spec"]["volumes"]) {
            let known = match volume["configMap"]["name"].as_str() {
                Some(map) => maps.contains(map),
                None => {
                    secrets.contains(volume["secret"]["secretName"].as_str().expect("a secret"))
                }
            };
            assert!(known, "{volume}");
            let mut all = of(&manifests, "Secret").into_iter();
            let secret = all.find(|it| name(it) == volume["secret"]["secretName"]);
            for item in list(&volume["secret"]["items"]) {
                let key = item["key"].as_str().expect("a key");
                let has_it = secret.is_some_and(|it| it["stringData"][key].is_string());
                assert!(has_it, "{item}");
            }
            assert!(
                list(&container["volumeMounts"]).any(|it| it["name"] == volume["name"]),
                "{volume}"
            );
        }
        let service = of(&manifests, "Service")
            .into_iter()
            .find(|it| name(it) == name(deployment));
        let service = service.expect("each deployment has a service");
        assert_eq!(
            service["spec"]["selector"],
            deployment["spec"]["selector"]["matchLabels"]
        );
        for port in list(&service["spec"]["ports"]) {
            assert!(
                list(&container["ports"]).any(|it| it["name"] == port["targetPort"]),
                "{port}"
            );
        }
    }
    let documented =
        fs::read_to_string(workspace().join("docs/metrics.md")).expect("it can be read");
    for scaler in of(&manifests, "HorizontalPodAutoscaler") {
        assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "connector");
        for metric in list(&scaler["spec"]["metrics"]) {
            let metric = metric["pods"]["metric"]["name"].as_str().expect("a metric");
            assert!(
                documented.contains(&format!("| `{metric}` | gauge |")),
                "{metric}"
            );
        }
    }
}
