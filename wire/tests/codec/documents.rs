//! Compares the tables in `docs/protocols/` with the code.

use wire::{Disconnect, Reason};

/// The rows that begin with one of the product's close codes, cell by cell.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| row.trim_end_matches(" |").split(" | ").collect())
        .filter(|cells: &Vec<&str>| cells[0].parse::<u16>().is_ok_and(|code| code >= 4000))
        .collect()
}

#[test]
fn the_table_of_close_codes_in_json_md_agrees_with_the_code() {
    let documented: Vec<_> = rows(include_str!("../../../docs/protocols/json.md"))
        .iter()
        .map(|cells| {
            (
                cells[0].to_owned(),
                cells[1].to_owned(),
                cells[2].to_owned(),
            )
        })
        .collect();
    let mut in_code: Vec<_> = Disconnect::ALL
        .iter()
        .filter_map(|reason| reason.farewell().json)
        .map(|json| {
            let reconnect = if json.reconnect { "yes" } else { "no" };
            (
                json.code.to_string(),
                format!("`{}`", json.reason),
                reconnect.to_owned(),
            )
        })
        .collect();
    in_code.sort();
    assert_eq!(documented, in_code);
    in_code.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(
        documented.len(),
        in_code.len(),
        "a close code is used twice"
    );
}

#[test]
fn the_table_of_closes_in_pomelo_md_names_every_kick_and_every_code() {
    let document = include_str!("../../../docs/protocols/pomelo.md");
    for farewell in Disconnect::ALL.map(Disconnect::farewell) {
        let kick = (farewell.kick).map_or_else(|| "none".to_owned(), |kick| format!("`{kick}`"));
        let row = format!("| {kick} | {} |", farewell.code);
        assert!(document.contains(&row), "{row}");
    }
}

#[test]
fn every_reason_to_close_is_documented_as_a_label_of_the_metric() {
    let document = include_str!("../../../docs/connections.md");
    for reason in Disconnect::ALL {
        let label = format!("`{}`", reason.label());
        assert!(document.contains(&label), "{label}");
    }
}

/// Compares the reason, the code, and whether a retry helps.
#[test]
fn the_table_of_refusals_in_json_md_agrees_with_the_code() {
    let document = include_str!("../../../docs/protocols/json.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: Vec<_> = rows
        .map(|row| row.split(" | ").collect::<Vec<_>>())
        .filter(|cells| {
            let name = cells[0].trim_end_matches('`');
            name.chars().all(|it| it.is_ascii_uppercase() || it == '_')
        })
        .map(|cells| cells[..3].join(" | "))
        .collect();
    let in_code = Reason::ALL.map(|reason| {
        let retry = match reason.retry_after() {
            Some(pause) => format!("yes, {} ms", pause.as_millis()),
            None => "no".to_owned(),
        };
        format!("{}` | {} | {retry}", reason.name(), reason.code())
    });
    assert_eq!(documented, in_code);
}
