use super::command::{Loaded, read};
use super::*;
use crate::cli::{bytes, duration};
use clap::Parser;
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{Mutex, watch};

/// A signal reaches the whole process, so only one test at a time follows a file.
static FOLLOWING: Mutex<()> = Mutex::const_new(());

/// Looks after things.
#[derive(Debug, Clone, Parser)]
#[command(name = "service")]
struct Service {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:1")]
    listen: String,
    /// How much; more is slower
    #[arg(long, default_value = "1KiB", value_parser = bytes::<u32>(1..=1 << 20), value_name = "BYTES")]
    much: u32,
    /// How long
    #[arg(long, value_parser = duration, value_name = "TIME")]
    long: Option<Duration>,
    /// The places where the data are
    #[arg(
        long,
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "redis://a"
    )]
    places: Vec<String>,
    /// Does less
    #[arg(long)]
    lazy: bool,
    /// The certificate
    #[arg(id = "tls.certificate", long = "tls-certificate", value_name = "FILE")]
    certificate: Option<PathBuf>,
    #[command(flatten)]
    log: LogSettings,
    #[arg(skip)]
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
struct Tables {
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(default)]
    deep: Deep,
}

/// A table in which there is nothing but another one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deep {
    #[serde(default)]
    rule: Vec<Rule>,
}

impl Grouped for Service {
    const FIRST: &'static [&'static str] = &["listen"];
    const GROUPS: &'static [(&'static str, &'static [&'static str])] =
        &[("Limits", &["much", "long"]), ("Process", &["log_format"])];
}

impl Settings for Service {
    const NAMES: Names = Names::of("CONFIG_TEST");
    const RELOADED: &'static [&'static str] = &["much", "rule"];
    type Tables = Tables;
    const TABLES: &'static [&'static str] = &["rule", "deep.rule"];
    const EXAMPLES: &'static [&'static str] = &["\n#[[rule]]\n#name = \"first\"\n"];

    fn take(&mut self, tables: Tables) {
        self.rules = [tables.rule, tables.deep.rule].concat();
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn check(&self) -> Result<(), String> {
        match self.much {
            13 => Err("--much: 13 is too unlucky".to_owned()),
            _ => Ok(()),
        }
    }
}

/// A file with this content, in a directory that lives as long as the test.
fn file(content: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("service.toml");
    fs::write(&path, content).unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

fn with_file(content: &str, flags: &[&str]) -> Result<Service, SettingsError> {
    let (_directory, path) = file(content);
    super::read(&[&["service", "--config", &path], flags].concat())
}

fn printed(arguments: &[&str]) -> String {
    match super::read::<Service>(&[&["service"], arguments].concat()) {
        Err(SettingsError::Arguments(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flag_counts_more_than_the_file_and_the_file_more_than_the_default() {
    let text = "much = \"2KiB\"\nlong = \"5s\"\nlazy = true\nplaces = [\"redis://b\", \"redis://c\"]\ntls.certificate = \"c.pem\"\n";
    let read = with_file(text, &["--long", "7s"]).unwrap();
    assert_eq!((read.much, read.lazy), (2048, true));
    assert_eq!(read.long, Some(Duration::from_secs(7)));
    assert_eq!(read.places, ["redis://b", "redis://c"]);
    assert_eq!(read.certificate, Some("c.pem".into()));
    assert_eq!(read.listen, "127.0.0.1:1");
    let table = with_file("much = 7\n[tls]\ncertificate = \"c.pem\"\n", &[]).unwrap();
    assert_eq!((table.much, table.certificate), (7, Some("c.pem".into())));
}

#[test]
fn a_mistake_in_a_file_is_one_line_with_the_place_and_what_was_expected() {
    for (text, expected) in [
        (
            "\nmuhc = 1",
            "line 2: muhc is no setting: did you mean much?",
        ),
        (
            "[tls]\ncertificat = 1",
            "line 2: tls.certificat is no setting: did you mean tls.certificate?",
        ),
        (
            "[colour]\nred = 1",
            "line 1: colour is no setting: `config default` prints all of them",
        ),
        (
            "much = \"1GB\"",
            "line 1: much: \"1GB\" can't be used: expected a number of bytes",
        ),
        ("much = [1]", "line 1: much: expected one value, not a list"),
        (
            "much = 2001-01-01",
            "line 1: much: expected text or a number",
        ),
        (
            "much = 0x10",
            "line 1: much: expected text or a number, not a value of type integer",
        ),
        ("lazy = \"yes\"", "line 1: lazy: expected true or false"),
        (
            "listen = true",
            "line 1: listen: expected text or a number, not a value of type boolean",
        ),
        (
            "log_format = \"xml\"",
            "line 1: log_format: \"xml\" can't be used: expected text, json",
        ),
        ("tls = 5", "line 1: tls: expected a table"),
        ("much = 1\nmuch = 2", "line 2: duplicate key"),
        ("much", "line 1: "),
        (
            "[[rule]]\nname = \"a\"\n[[rule]]\nnme = \"b\"",
            "line 4: unknown field `nme`, expected `name`",
        ),
        ("[[rule]]\nname = 1", "line 2: invalid type"),
    ] {
        let error = with_file(text, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(
            error.contains("service.toml, line") && !error.contains('\n'),
            "{error}"
        );
    }
    let missing = super::read::<Service>(&["service", "--config", "/nowhere.toml"]);
    let error = missing.unwrap_err().to_string();
    assert!(
        error.starts_with("/nowhere.toml: can't be read: No such file"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let line = "# A comment, which counts as well.\n";
    let lines = 1 + file::LARGEST as usize / line.len();
    let error = with_file(&line.repeat(lines), &[]).unwrap_err().to_string();
    assert!(error.ends_with("it has more than 1048576 bytes"), "{error}");
    assert!(with_file(&line.repeat(lines - 1), &[]).is_ok());
}

#[test]
fn a_wrong_value_in_a_file_is_refused_even_if_a_flag_counts_more() {
    let error = with_file("much = \"x\"", &["--much", "5"]).unwrap_err();
    assert!(error.to_string().contains("line 1: much"), "{error}");
}

#[test]
fn settings_that_contradict_each_other_are_refused_wherever_they_come_from() {
    let error = with_file("much = 13", &[]).unwrap_err().to_string();
    assert_eq!(error, "--much: 13 is too unlucky (try --help)");
}

#[test]
fn a_list_of_tables_is_read_from_the_file() {
    let text = "[[rule]]\nname = \"a\"\n[[rule]]\nname = \"b\"\n[[deep.rule]]\nname = \"c\"\n";
    let names: Vec<_> = with_file(text, &[]).unwrap().rules;
    assert_eq!(
        names.iter().map(|it| &*it.name).collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
}

#[test]
fn the_default_file_changes_nothing_with_and_without_its_comment_signs() {
    let text = printed(&["config", "default"]);
    let without = super::read::<Service>(&["service"]).unwrap();
    let as_it_is = with_file(&text, &[]).unwrap();
    assert_eq!(format!("{as_it_is:?}"), format!("{without:?}"));
    let is_unset = |at: usize, lines: &[&str]| at > 0 && lines[at - 1] == "# Not set by default.";
    let lines: Vec<_> = text.lines().collect();
    let lines = lines
        .iter()
        .enumerate()
        .map(|(at, line)| match line.strip_prefix('#') {
            Some(key)
                if !key.starts_with(' ')
                    && !key.contains("rule")
                    && !key.contains("first")
                    && !is_unset(at, &lines) =>
            {
                key
            }
            _ => line,
        });
    let live = lines.collect::<Vec<_>>().join("\n");
    assert!(live.contains("\nmuch = \"1KiB\"\n"), "{live}");
    let live = with_file(&live, &[]).unwrap();
    assert_eq!(format!("{live:?}"), format!("{without:?}"));
}

#[test]
fn show_names_the_source_of_each_value_and_hides_passwords() {
    let (_directory, path) =
        file("much = 5\nplaces = [\"redis://u:secret@b\"]\n[[rule]]\nname = \"a\"\n");
    let text = printed(&[
        "--listen",
        "127.0.0.1:2",
        "config",
        "show",
        "--config",
        &path,
    ]);
    for line in [
        "listen = \"127.0.0.1:2\"  # --listen",
        "much = 5  # the file, line 1",
        "places = [\"redis://***@b\"]  # the file, line 2",
        "lazy = false  # default",
        "#long is not set",
        "#certificate is not set",
        "[[rule]]",
        "name = \"a\"",
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(!text.contains("secret"));
}

#[test]
fn a_file_is_checked_without_a_service() {
    let (_directory, path) = file("much = 5\n");
    assert_eq!(printed(&["config", "check", &path]), "The file is right.\n");
    let (_directory, path) = file("much = 13\n");
    let error = super::read::<Service>(&["service", "config", "check", &path]);
    assert!(error.unwrap_err().to_string().contains("--much: 13"));
}

#[test]
fn the_help_names_the_variable_of_each_setting() {
    let help = command::command::<Service>().render_long_help().to_string();
    for variable in [
        "CONFIG_TEST_MUCH",
        "CONFIG_TEST_TLS__CERTIFICATE",
        "CONFIG_TEST_CONFIG",
    ] {
        assert!(help.contains(variable), "{variable} is not in\n{help}");
    }
}

fn loaded(path: &str) -> Loaded<Service> {
    let arguments = ["service", "--config", path].map(Into::into);
    match read::<Service>(&arguments) {
        Ok(Asked::Service(loaded)) => loaded,
        _ => panic!("the file is right"),
    }
}

/// The settings of a file, and what reads it again.
fn source_of(path: &str) -> (Service, Source<Service>) {
    let arguments = ["service", "--config", path].map(Into::into).to_vec();
    Source::new(arguments).holding(loaded(path))
}

#[test]
fn a_changed_setting_either_takes_effect_at_once_or_needs_a_restart() {
    let (_directory, path) = file("much = 5\nlong = \"1s\"\nlazy = true\n");
    let (settings, mut source) = source_of(&path);
    fs::write(
        &path,
        "much = 6\nlong = \"2s\"\nlazy = true\n[[rule]]\nname = \"a\"\n[[deep.rule]]\nname = \"b\"\n",
    )
    .unwrap();
    let (_, after) = source_of(&path);
    let (at_once, restart) = source.changed(after.values());
    assert_eq!(at_once, ["much", "rule"]);
    assert_eq!(restart, ["deep.rule", "long"]);
    // What needs a restart is said once.
    let latest = watch::Sender::new(Arc::new(settings));
    source.take(loaded(&path), &latest);
    let nothing = source.changed(after.values());
    assert_eq!(nothing, (Vec::new(), Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn settings_are_read_again_at_sighup_and_when_the_file_has_other_content_and_then_once() {
    let _alone = FOLLOWING.lock().await;
    let (_directory, path) = file("much = 5\n");
    let (settings, source) = source_of(&path);
    let (mut latest, _task) = source.follow(settings);
    let mut is_read = async || {
        let soon = tokio::time::timeout(Duration::from_secs(20), latest.changed());
        soon.await.is_ok()
    };
    assert!(!is_read().await, "nothing has changed");
    fs::write(&path, "much = 6\n").unwrap();
    assert!(is_read().await);
    assert!(!is_read().await, "it was read already");
    // Some editors remove the file before they write it again.
    fs::remove_file(&path).unwrap();
    assert!(!is_read().await);
    fs::write(&path, "much = 6\n").unwrap();
    assert!(!is_read().await, "it is as it was before");
    let own = std::process::id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-HUP", &own])
        .status();
    assert!(sent.unwrap().success());
    // The signal takes real time to arrive, and the clock of this test does not wait for it.
    let begun = Instant::now();
    while !is_read().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not read");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_taken_as_a_whole_or_not_at_all() {
    let _alone = FOLLOWING.lock().await;
    let (_directory, path) = file("much = 5\n");
    let (settings, source) = source_of(&path);
    let (mut latest, _task) = source.follow(settings);
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs::write(&path, "much = 6\nlong = \"wrong\"\n").unwrap();
    let soon = tokio::time::timeout(Duration::from_secs(20), latest.changed());
    assert!(soon.await.is_err(), "a file with a mistake was taken");
    assert_eq!(latest.borrow().much, 5);
    fs::write(&path, "much = 6\n[[rule]]\nname = \"a\"\n").unwrap();
    let soon = tokio::time::timeout(Duration::from_secs(20), latest.changed());
    soon.await.expect("the change is noticed").unwrap();
    let now: Arc<Service> = latest.borrow().clone();
    assert_eq!((now.much, now.rules.len()), (6, 1));
}
