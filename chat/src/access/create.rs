//! `chat token create`: makes a token.

use super::file::{Credential, Hash, line, new_token};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

/// Makes tokens for those who call chat.
#[derive(Debug, Parser)]
#[command(name = "chat token", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prints a new token, and below it the line for the file of tokens.
    ///
    /// The token is printed this once and is kept nowhere. Give it to the caller, and add the line to the file
    /// (`--api-tokens-file`): chat takes it within 10 seconds.
    Create {
        /// The name of the caller, which stands in the audit log
        name: String,

        /// What the token allows, with commas between: send, read, members, users, nodes, admin, connector
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<String>,

        /// The only channels that the token may name, with commas between; each * stands for any characters. Without it: all
        #[arg(long, value_delimiter = ',', value_name = "PATTERN,…")]
        channels: Vec<String>,
    },
}

/// Does what the arguments behind `chat token` say. Nothing else is written to stdout than the token and its line.
///
/// A mistake is one line on stderr.
#[must_use]
pub fn create_token(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = std::iter::once(OsString::from("chat token")).chain(arguments);
    let Arguments { action } = runtime::cli::parse_from(arguments);
    let Action::Create {
        name,
        scopes,
        channels,
    } = action;
    match create(&name, &scopes, &channels) {
        Ok(printed) => match io::stdout().write_all(printed.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("chat token: cannot print the token: {error}");
                ExitCode::FAILURE
            }
        },
        Err(reason) => runtime::cli::refuse::<Arguments>(reason),
    }
}

/// The token and its line.
fn create(name: &str, scopes: &[String], channels: &[String]) -> Result<String, String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| format!("the system gives no random bytes: {error}"))?;
    let token = new_token(random);
    let hash = Hash::of(&token).ok_or("the token could not be made")?;
    if channels.iter().any(|it| it.trim().is_empty()) {
        return Err("a pattern of channels must not be empty".to_owned());
    }
    let line = line(
        name,
        Credential::Token(hash),
        scopes.iter().map(String::as_str),
        channels.iter().map(String::as_str),
    )?;
    Ok(format!("{token}\n{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::*;

    #[test]
    fn a_new_token_is_the_one_of_its_line() {
        let scopes = ["send".to_owned(), "read".to_owned()];
        let printed = create("game", &scopes, &["game:*".to_owned()]).unwrap();
        let (token, line) = printed.split_once('\n').unwrap();
        let parsed = parse(line).unwrap();
        let hash = Hash::of(token).unwrap();
        assert_eq!(parsed[0].credential, Credential::Token(hash));
        assert_eq!(parsed[0].name, "game");
        assert!(parsed[0].allows("game:1") && !parsed[0].allows("chess"));
        assert!(!line.contains(token));
        let again = create("game", &scopes, &[]).unwrap();
        assert!(!again.starts_with(token));
    }

    #[test]
    fn a_line_that_the_file_could_not_hold_is_refused() {
        let scopes = |it: &str| [it.to_owned()];
        assert!(create("two words", &scopes("send"), &[]).is_err());
        assert!(create("a", &scopes("everything"), &[]).is_err());
        assert!(create("a", &scopes("send"), &[String::new()]).is_err());
        let channels = ["a*".to_owned()];
        assert!(create("a", &scopes("connector"), &channels).is_err());
    }
}
