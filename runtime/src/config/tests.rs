use super::command::{command, read};
use super::key::keys;
use super::place::of_variable;
use super::reload::{Changes, Running};
use super::text::Shown;
use super::*;
use crate::cli::{bytes, duration};
use clap::Parser;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Looks after things.
#[derive(Debug, Clone, Parser)]
#[command(name = "service")]
struct Service {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:1")]
    listen: String,
    /// Where it can be asked
    #[arg(long, default_value = "127.0.0.1:2")]
    admin: SocketAddr,

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
    #[serde(default)]
    number: i64,
    #[serde(default)]
    places: Vec<String>,
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
    const COMMANDS: &'static [(&'static str, &'static str)] = &[("paint", "Paints things")];

    fn admin(&self) -> SocketAddr {
        self.admin
    }

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

    fn warnings(&self) -> Vec<String> {
        let many = self.rules.len() > 1;
        many.then(|| "one rule is enough".to_owned())
            .into_iter()
            .collect()
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
            "line 4: unknown key `nme`, expected one of `name`",
        ),
        ("[[rule]]\n", "line 1: a key is missing: `name`"),
        (
            "[[rule]]\nname = 1",
            "line 2: `1` can't be used: expected text",
        ),
        (
            "[[rule]]\nname = 'a'\nnumber = 'b'",
            "line 3: \"b\" can't be used: expected a whole number",
        ),
        (
            "[[rule]]\nname = 'a'\nplaces = true",
            "line 3: `true` can't be used: expected a list",
        ),
        ("\n[rule]\nname = 'a'", "line 2: write [[rule]]"),
        ("rule = 'a'", "line 1: write [[rule]]"),
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
    let (_directory, path) = file("\nmuch = 13");
    for (arguments, expected) in [
        (
            &["--config", &path][..],
            format!("{path}, line 2: much: 13 is too unlucky"),
        ),
        (
            &["--config", &path, "--much", "13"],
            "--much: 13 is too unlucky (try --help)".to_owned(),
        ),
    ] {
        let read = super::read::<Service>(&[&["service"], arguments].concat());
        assert_eq!(read.unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_wrong_value_of_a_variable_is_reported_with_the_name_of_the_variable() {
    let command = command::<Service>();
    let keys = keys::<Service>(&command);
    let complaint = |flag: &str, arguments: &[&str], set: &[(&str, &str)]| {
        // What clap says is the same, wherever the value comes from.
        let error = command.clone().try_get_matches_from(["service", flag]);
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        let of_variable = of_variable(&error.unwrap_err(), &keys, &arguments, |name| {
            let mut set = set.iter();
            let (_, value) = set.find(|(variable, _)| name == *variable)?;
            Some((*value).into())
        });
        of_variable.map(|it| it.to_string())
    };
    let expected = "CONFIG_TEST_MUCH: \"x\" can't be used: expected a number of bytes, such as 1048576, 512KiB, 1MiB or 2GiB (try --help)";
    let (variable, other) = (("CONFIG_TEST_MUCH", "x"), ("CONFIG_TEST_MUCH", "5"));
    for (arguments, set, is_blamed) in [
        (&["service"][..], &[variable][..], true),
        (&["service", "--much", "x"], &[variable], false),
        (&["service", "--much=x"], &[variable], false),
        (&["service"], &[other], false),
        (&["service"], &[], false),
    ] {
        let told = complaint("--much=x", arguments, set);
        let expected = is_blamed.then_some(expected);
        assert_eq!(told.as_deref(), expected, "{arguments:?} {set:?}");
    }
    let told = complaint(
        "--log-format=xml",
        &["service"],
        &[("CONFIG_TEST_LOG_FORMAT", "xml")],
    );
    let expected =
        "CONFIG_TEST_LOG_FORMAT: \"xml\" can't be used: expected text, json (try --help)";
    assert_eq!(told.as_deref(), Some(expected));
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
fn flags_may_stand_in_front_of_config_show_and_behind_it() {
    let (_directory, path) = file("much = 5\n");
    let flags = ["--long", "3s", "--config", &*path];
    let show = ["config", "show"];
    let before = printed(&[&flags[..], &show].concat());
    assert_eq!(printed(&[&show[..], &flags].concat()), before);
    assert!(before.contains("long = \"3s\"  # --long"), "{before}");
    assert!(before.contains("much = 5  # the file, line 1"), "{before}");
    let error = super::read::<Service>(&["service", "config", "show", "--lnog", "3s"]);
    assert!(error.unwrap_err().to_string().contains("--lnog"));
}

#[test]
fn commands_of_the_service_are_in_the_help_and_must_be_the_first_word() {
    let help = crate::cli::brief(command::<Service>()).render_help();
    let help = help.to_string();
    let line = help.lines().find(|line| line.contains("paint"));
    assert!(line.unwrap().contains("Paints things"), "{help}");
    let error = super::read::<Service>(&["service", "--lazy", "paint", "blue", "--all"]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("paint must be the first word"), "{error}");
}

#[test]
fn a_file_is_checked_without_a_service() {
    let (_directory, path) = file("much = 5\n");
    assert_eq!(printed(&["config", "check", &path]), "The file is right.\n");
    let (_directory, path) = file("much = 13\n");
    let error = super::read::<Service>(&["service", "config", "check", &path]);
    assert!(error.unwrap_err().to_string().contains("line 1: much: 13"));
}

#[test]
fn a_check_warns_of_what_is_right_but_cannot_be_meant() {
    let (_directory, path) = file("[[rule]]\nname = 'a'\n[[rule]]\nname = 'b'\n");
    let arguments = ["service", "config", "check", &path].map(OsString::from);
    match read::<Service>(&arguments, None) {
        Ok(Asked::Text { text, warnings }) => {
            assert_eq!(text, "The file is right.\n");
            assert_eq!(warnings, ["one rule is enough"]);
        }
        _ => panic!("it is a text"),
    }
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

/// A service that follows this file.
fn following(path: &str) -> (Reloading<Service>, tokio_util::task::AbortOnDropHandle<()>) {
    let arguments = ["service", "--config", path].map(Into::into).to_vec();
    let Ok(Asked::Service(loaded)) = read::<Service>(&arguments, None) else {
        panic!("the file is right");
    };
    let (settings, source) = Source::new(arguments).holding(loaded);
    source.follow(settings)
}

/// True if other settings come within the promised time.
async fn come(latest: &mut Reloading<Service>) -> bool {
    let soon = tokio::time::timeout(Duration::from_secs(10), latest.changed());
    soon.await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_taken_as_a_whole_or_not_at_all() {
    let (_directory, path) = file("much = 5\n");
    let (mut latest, _task) = following(&path);
    fs::write(&path, "much = 6\nlong = \"wrong\"\n").unwrap();
    assert!(!come(&mut latest).await, "a file with a mistake was taken");
    assert_eq!(latest.borrow().much, 5);
    fs::write(&path, "much = 6\n[[rule]]\nname = \"a\"\n").unwrap();
    assert!(come(&mut latest).await);
    let now: Arc<Service> = latest.borrow_and_update().clone();
    assert_eq!((now.much, now.rules.len()), (6, 1));
    for lost in ["", "\n"] {
        fs::write(&path, lost).unwrap();
        assert!(!come(&mut latest).await, "an empty file was taken");
    }
    fs::remove_file(&path).unwrap();
    assert!(!come(&mut latest).await, "a file that is gone was taken");
    fs::write(&path, "# no rule any more\n").unwrap();
    assert!(come(&mut latest).await);
    assert_eq!(latest.borrow().rules, []);
}

/// Written up to a rule, then the rest after a pause that is shorter than the time between two looks.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_still_being_written_is_not_taken() {
    let whole = "[[rule]]\nname = \"a\"\n";
    let (_directory, path) = file(whole);
    let (mut latest, _task) = following(&path);
    for turn in 0..10 {
        tokio::time::sleep(Duration::from_millis(100 * turn)).await;
        let first = format!("much = {}\n", 100 + turn);
        fs::write(&path, &first).unwrap();
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert!(!latest.has_changed().unwrap(), "half of a file was taken");
        fs::write(&path, format!("{first}{whole}")).unwrap();
        assert!(come(&mut latest).await);
        let now = latest.borrow_and_update().clone();
        assert_eq!((u64::from(now.much), now.rules.len()), (100 + turn, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_need_a_restart_alone_are_not_handed_out() {
    let (_directory, path) = file("much = 5\n");
    let (mut latest, _task) = following(&path);
    fs::write(&path, "much = 5\nlong = \"9s\"\n").unwrap();
    assert!(!come(&mut latest).await);
    fs::write(&path, "much = 6\nlong = \"9s\"\n").unwrap();
    assert!(come(&mut latest).await);
}

#[test]
fn what_needs_a_restart_is_what_differs_from_what_runs() {
    let values = |of: &[(&str, &str)]| {
        let of = of.iter().map(|(key, value)| {
            let shown = Shown {
                values: vec![(*value).to_owned()],
                from: String::new(),
            };
            ((*key).to_owned(), shown)
        });
        of.collect::<BTreeMap<_, _>>()
    };
    let changes = |applied: &[&str], restart: &[&str], is_new| Changes {
        applied: applied.iter().map(ToString::to_string).collect(),
        restart: restart.iter().map(ToString::to_string).collect(),
        is_new,
    };
    let mut running = Running::of(values(&[("much", "1"), ("long", "1s"), ("listen", "a")]));
    for (now, expected) in [
        (
            &[("much", "1"), ("long", "2s"), ("listen", "b")][..],
            changes(&[], &["listen", "long"], true),
        ),
        // The same again, with another value that takes effect.
        (
            &[("much", "2"), ("long", "2s"), ("listen", "b")],
            changes(&["much"], &["listen", "long"], false),
        ),
        // One of them is as it runs.
        (
            &[("much", "2"), ("long", "2s"), ("listen", "a")],
            changes(&[], &["long"], false),
        ),
        (
            &[("much", "2"), ("long", "1s"), ("listen", "a")],
            changes(&[], &[], false),
        ),
        (
            &[("much", "2"), ("long", "3s"), ("listen", "a")],
            changes(&[], &["long"], true),
        ),
        (
            &[("much", "1"), ("rule", "x"), ("listen", "a")],
            changes(&["much", "rule"], &["long"], true),
        ),
        (
            &[("much", "1"), ("long", "1s"), ("listen", "a")],
            changes(&["rule"], &[], false),
        ),
    ] {
        let values = values(now);
        assert_eq!(running.take::<Service>(&values), expected, "{now:?}");
    }
}

/// What `health` would ask with these arguments.
fn asked(arguments: &[&str]) -> Result<(String, bool), String> {
    let arguments: Vec<_> = [&["service"], arguments]
        .concat()
        .iter()
        .map(Into::into)
        .collect();
    match read::<Service>(&arguments, None) {
        Ok(Asked::Health(question)) => Ok((question.admin.to_string(), question.live)),
        Ok(_) => Err("something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn health_asks_where_the_settings_say_also_if_they_have_become_wrong() {
    let (_directory, path) = file("admin = \"127.0.0.1:3\"\nmuch = 13\n");
    let at = |port: u16, live: bool| Ok((format!("127.0.0.1:{port}"), live));
    assert_eq!(asked(&["health"]), at(2, false));
    assert_eq!(asked(&["health", "--live"]), at(2, true));
    assert_eq!(asked(&["health", "--config", &path]), at(3, false));
    assert_eq!(asked(&["--config", &path, "health"]), at(3, false));
    let all = [
        "health",
        "--live",
        "--admin",
        "127.0.0.1:4",
        "--config",
        &path,
    ];
    assert_eq!(asked(&all), at(4, true));
    assert!(with_file("much = 13", &[]).is_err());
    assert!(asked(&["health", "--loud"]).unwrap_err().contains("--loud"));
    // A value of that name is a value.
    assert!(asked(&["--listen", "health", "--much", "5"]).is_err());
}
