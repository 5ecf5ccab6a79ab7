//! A load generator: many clients in one thread, a check of every delivery, and a floor to compare with.
//!
//! It prints one line of JSON: settings, the medians of all rounds for the floor and for the system, their ratios, and
//! what was wrong. It fails if anything was wrong.

mod back_ends;
mod clock;
mod floor;
mod message;
mod modes;
mod order;
mod place;
mod protocol;
mod reconnect;
mod subject;
mod swarm;
mod tokens;
mod wire;

use anyhow::bail;
use clap::{Parser, Subcommand};
use modes::{Figures, Mode};
use order::Faults;
use protocol::Protocol;
use reconnect::Reconnect;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use subject::{Subject, Up};

/// Loads a server, and prints one line of JSON
#[derive(Debug, Parser)]
#[command(name = "load", version)]
struct Arguments {
    /// The system to start, anew in each round
    #[arg(long, value_enum, global = true)]
    up: Option<Up>,
    /// The addresses of servers that run already, on this machine only
    #[arg(long, value_delimiter = ',', global = true, conflicts_with = "up")]
    connect: Vec<SocketAddr>,
    /// The protocol of the clients
    #[arg(long, value_enum, default_value = "pomelo", global = true)]
    protocol: Protocol,
    /// How often the floor and the system are measured, in turn. All figures are medians
    #[arg(long, default_value_t = 1, global = true)]
    rounds: usize,
    /// Do not measure the floor
    #[arg(long, global = true)]
    no_floor: bool,
    /// A further flag for connectors (or standalone), such as --flag=--queue-total=67108864
    #[arg(long = "flag", global = true, allow_hyphen_values = true)]
    flags: Vec<String>,
    /// A file with the secret of an issuer: clients log in with tokens of it (HS256, with `https://load.example` as `iss` and `chat` as `aud`)
    #[arg(long, global = true, value_name = "FILE")]
    token_secret: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Load(Mode),
    Reconnect(Reconnect),
    #[command(flatten)]
    BackEnds(back_ends::Mode),
    /// Be the floor, until killed
    #[command(hide = true)]
    Floor,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Command::Floor = arguments.command {
        floor::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&arguments))
}

async fn measure(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(file) = &arguments.token_secret {
        tokens::use_secret(&std::fs::read(file)?);
    }
    let mut flags: Vec<&'static str> = (arguments.flags.iter())
        .flat_map(|flag| flag.splitn(2, '='))
        .map(|flag| &*flag.to_owned().leak())
        .collect();
    if let Command::Reconnect(it) = &arguments.command {
        it.check(arguments.up, arguments.protocol)?;
        flags.extend(it.flags(&flags));
    }
    let mut rounds: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    let mut faults = Faults::default();
    for _ in 0..arguments.rounds {
        let has_floor = matches!(arguments.command, Command::Load(_));
        let with_floor = has_floor && !arguments.no_floor && arguments.up != Some(Up::Floor);
        let floor = with_floor.then_some(("floor", Some(Up::Floor)));
        for (name, up) in floor.into_iter().chain([("system", arguments.up)]) {
            let subject = match up {
                Some(up) => Subject::start(up, arguments.protocol, &flags).await?,
                None if arguments.connect.is_empty() => bail!("give --up or --connect"),
                None => Subject::elsewhere(arguments.connect.clone(), arguments.protocol)?,
            };
            let (figures, wrong) = match &arguments.command {
                Command::Load(mode) => mode.run(&subject).await?,
                Command::Reconnect(it) => it.run(&subject)?,
                Command::BackEnds(mode) => mode.run(&subject).await?,
                Command::Floor => bail!("the floor is no load"),
            };
            faults += wrong;
            rounds.entry(name).or_default().push(figures);
        }
    }
    let medians: BTreeMap<_, _> = rounds
        .iter()
        .map(|(name, it)| (*name, medians(it)))
        .collect();
    let mut line = Map::new();
    line.insert(
        "load".into(),
        json!(std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
    );
    for (name, figures) in &medians {
        line.insert((*name).to_owned(), rounded(figures));
    }
    if let (Some(floor), Some(system)) = (medians.get("floor"), medians.get("system")) {
        let both = system.iter().filter_map(|(name, value)| {
            let base = floor.get(name).filter(|base| **base > 0.0)?;
            Some((name.clone(), value / base))
        });
        line.insert("ratio".into(), rounded(&both.collect()));
    }
    let busy = medians.values().filter_map(|it| it.get("generator_busy"));
    if busy.fold(0.0, |most: f64, busy| most.max(*busy)) > 0.9 {
        line.insert("warning".into(), json!("the generator was at its limit"));
    }
    line.insert("faults".into(), json!(faults));
    println!("{}", Value::Object(line));
    if faults.is_clean() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("deliveries were wrong: {faults:?}");
    Ok(ExitCode::FAILURE)
}

fn medians(rounds: &[Figures]) -> Figures {
    let names = rounds.iter().flat_map(Figures::keys);
    names
        .map(|name| {
            let mut values: Vec<_> = rounds
                .iter()
                .filter_map(|it| it.get(name).copied())
                .collect();
            values.sort_by(f64::total_cmp);
            (name.clone(), values[values.len() / 2])
        })
        .collect()
}

fn rounded(figures: &Figures) -> Value {
    let figures = figures
        .iter()
        .map(|(name, value)| (name.clone(), json!(round(*value))));
    Value::Object(figures.collect())
}

/// Rounds to three decimal places.
fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
