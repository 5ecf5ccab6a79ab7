//! `standalone migrate-pomelo`: makes settings for connectors and chats of the configuration of a project on Pomelo.

mod connector_config;
mod notes;
mod servers;
mod settings;

use clap::Parser;
use notes::Notes;
use runtime::redis_settings::pomelo::{PomeloRedis, json};
use serde_json::Value;
use servers::Servers;
use settings::{Origin, SettingsFile};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name of the command, and what it does.
pub(crate) const COMMAND: (&str, &str) = (
    "migrate-pomelo",
    "Makes settings for connectors and chats of the configuration of a project on Pomelo",
);

/// Makes settings for connectors and chats of the configuration of a project on Pomelo: connector.toml, chat.toml, and a file of
/// environment variables for each process if there are several. What has no counterpart is told on stderr and in comments
#[derive(Debug, Parser)]
#[command(name = "standalone migrate-pomelo", version)]
struct Arguments {
    /// The folder with servers.json, such as game-server/config
    #[arg(value_name = "CONFIG_DIR")]
    config: PathBuf,

    /// The environment, as Pomelo is started with it: production, development or one of your own
    #[arg(long, value_name = "NAME")]
    env: Option<String>,

    /// Writes the files into this folder, and never over a file. Without it they are printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// What app.js sets as connectorConfig, such as heartbeat=3,useDict=true
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',')]
    connector_config: Vec<String>,

    /// Lets the processes listen for other machines where they did so before, and lets everybody in under any name, as before. Without
    /// it they listen on loopback
    #[arg(long)]
    insecure: bool,
}

/// Does what the arguments behind `standalone migrate-pomelo` say.
pub(crate) fn migrate_pomelo(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let name = OsString::from("standalone migrate-pomelo");
    let arguments: Arguments = runtime::cli::parse_from(std::iter::once(name).chain(arguments));
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("standalone migrate-pomelo: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut notes = Notes::default();
    let files = made(arguments, &mut notes)?;
    match &arguments.out {
        Some(folder) => write(folder, &files)?,
        None => print(&files).map_err(|error| format!("the files can't be printed: {error}"))?,
    }
    for note in notes.all() {
        eprintln!("{note}");
    }
    Ok(())
}

/// The files, and notes about what is not in them.
fn made(arguments: &Arguments, notes: &mut Notes) -> Result<Vec<SettingsFile>, String> {
    let folder = fs::canonicalize(&arguments.config)
        .map_err(|error| format!("{} can't be read: {error}", arguments.config.display()))?;
    let env = arguments.env.as_deref();
    let path = file(&folder, env, "servers.json")
        .ok_or_else(|| format!("{} has no servers.json", folder.display()))?;
    let servers = Servers::of(&json(&path)?, env, notes);
    let servers = servers.map_err(|error| format!("{}: {error}", path.display()))?;

    let mut config = connector_config::read(&arguments.connector_config, notes)?;
    let dictionary = file(&folder, env, "dictionary.json");
    let routes = match &dictionary {
        Some(path) => json(path)?,
        None => Value::Null,
    };
    let has_routes = routes.as_array().is_some_and(|routes| !routes.is_empty());
    match (config.uses_dictionary, has_routes) {
        (true, true) => config.dictionary = dictionary,
        (false, true) => notes.for_connectors(
            "dictionary.json: it is used with --connector-config useDict=true alone",
        ),
        (_, false) => {}
    }
    let redis = match file(&folder, env, "redis.json") {
        Some(path) => {
            let read = PomeloRedis::read(&path, env)?;
            for ignored in &read.ignored {
                notes.for_both(ignored);
            }
            Some((path, read))
        }
        None => {
            notes.for_both("redis.json is not there: Redis is taken to be at 127.0.0.1:6379");
            None
        }
    };
    other_files(&folder, notes)?;
    let origin = Origin {
        folder: &folder,
        env,
        is_insecure: arguments.insecure,
        redis: redis.as_ref().map(|(path, redis)| (path.as_path(), redis)),
    };
    Ok(settings::files(&origin, &servers, &config, notes))
}

/// Where Pomelo looks for a file: in the folder, and then in the folder of the environment.
fn file(folder: &Path, env: Option<&str>, name: &str) -> Option<PathBuf> {
    let of_env = env.map(|env| folder.join(env).join(name));
    let places = [Some(folder.join(name)), of_env];
    places.into_iter().flatten().find(|path| path.is_file())
}

/// Notes the files that are not read here.
fn other_files(folder: &Path, notes: &mut Notes) -> Result<(), String> {
    let entries = fs::read_dir(folder)
        .map_err(|error| format!("{} can't be read: {error}", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names: BTreeSet<_> = names.filter(|name| name.ends_with(".json")).collect();
    for name in names {
        let instead = match &*name {
            "servers.json" | "redis.json" | "dictionary.json" => continue,
            "clientProtos.json" | "serverProtos.json" => {
                let is_empty =
                    json(&folder.join(&name)).is_ok_and(|it| it == serde_json::json!({}));
                if is_empty {
                    continue;
                }
                "bodies are JSON on the sockets of clients. Clients that know protobuf send JSON when the handshake names no protos"
            }
            "master.json" => "there is no master, and processes find each other in Redis",
            "adminServer.json" | "adminUser.json" => {
                "there is no master. The admin ports have /readyz and /metrics, and back ends need tokens (--api-tokens-file)"
            }
            "log4js.json" => "--log-filter and --log-format say what is logged, to stderr",
            _ => "it is not a file of Pomelo's own. What it means is in your code",
        };
        notes.for_connectors(&format!("{name} has no counterpart: {instead}"));
    }
    Ok(())
}

fn print(files: &[SettingsFile]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    for SettingsFile { name, text } in files {
        writeln!(output, "# ======== {name}\n{text}")?;
    }
    output.flush()
}

/// Writes all files, or none if one of them is there already.
fn write(folder: &Path, files: &[SettingsFile]) -> Result<(), String> {
    fs::create_dir_all(folder)
        .map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
    let paths: Vec<_> = files.iter().map(|file| folder.join(&file.name)).collect();
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        let path = path.display();
        return Err(format!("{path} is there already, so nothing was written"));
    }
    for (path, file) in paths.iter().zip(files) {
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .and_then(|mut opened| opened.write_all(file.text.as_bytes()));
        written.map_err(|error| format!("{} can't be written: {error}", path.display()))?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
