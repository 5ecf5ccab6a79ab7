//! Lists connectors, and drains one.

use super::connectors::{Asked, Connectors, name_of};
use crate::calls::fields::Violations;
use crate::error::Error;
use crate::rules::Rules;
use channel_store::Incarnation;
use proto::chat::v1::{
    Connector, ConnectorState, DrainConnectorRequest, DrainConnectorResponse, DrainedIncarnation,
    ListConnectorsResponse,
};
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::connector::v1::{DescribeAction, Described, DrainAction};

pub(super) async fn list(
    connectors: &Connectors,
    rules: &Rules,
) -> Result<ListConnectorsResponse, Error> {
    let all = connectors.all().await?;
    let dead = connectors.dead_among(&all).await;
    let living = all.into_iter().filter(|it| !dead.contains(it));
    let asked = living.map(|it| (it, Action::Describe(DescribeAction {})));
    let mut listed: Vec<_> = dead.iter().map(gone).collect();
    for (incarnation, asked) in connectors.ask_all(asked).await {
        listed.push(match asked {
            Asked::Answered(Outcome::Described(it)) => described(&incarnation, it),
            // It has ended meanwhile.
            Asked::Gone => gone(&incarnation),
            Asked::Answered(_) | Asked::Unanswered => Connector {
                state: ConnectorState::Unanswered.into(),
                ..named(&incarnation)
            },
        });
    }
    listed.sort_by(|a, b| (&a.name, &a.incarnation).cmp(&(&b.name, &b.incarnation)));
    Ok(ListConnectorsResponse {
        connectors: listed,
        rules_hash: rules.hash(),
    })
}

pub(super) async fn drain(
    connectors: &Connectors,
    request: DrainConnectorRequest,
) -> Result<DrainConnectorResponse, Error> {
    let name = request.connector;
    let mut wrong = Violations::default();
    // An incarnation and the name of a connector have the same characters.
    let named = wrong.check("connector", Incarnation::new(name.as_str()));
    let only = wrong.optional("incarnation", request.incarnation, |text| {
        let only = Incarnation::new(text).map_err(|error| error.to_string())?;
        if name_of(&only) == name {
            Ok(only)
        } else {
            Err("must be one of this connector, as ListConnectors shows it".to_owned())
        }
    });
    let (Some(_), Some(only)) = (named, only) else {
        return Err(wrong.into());
    };
    let mut found = connectors.all().await?;
    found.retain(|it| only.as_ref().map_or(name_of(it) == name, |only| it == only));
    let dead = connectors.dead_among(&found).await;
    found.retain(|it| !dead.contains(it));
    let asked = found
        .into_iter()
        .map(|it| (it, Action::Drain(DrainAction {})));
    let mut incarnations = Vec::new();
    for (incarnation, asked) in connectors.ask_all(asked).await {
        let draining = match asked {
            // It has ended meanwhile.
            Asked::Gone => continue,
            Asked::Answered(outcome) => matches!(outcome, Outcome::Draining(_)),
            Asked::Unanswered => false,
        };
        incarnations.push(DrainedIncarnation {
            incarnation: incarnation.to_string(),
            draining,
        });
    }
    if incarnations.is_empty() {
        return Err(Error::ConnectorNotFound);
    }
    incarnations.sort_by(|a, b| a.incarnation.cmp(&b.incarnation));
    let is_unanswered = incarnations.iter().any(|it| !it.draining);
    Ok(DrainConnectorResponse {
        incarnations,
        unanswered_connectors: is_unanswered.then_some(name).into_iter().collect(),
    })
}

fn described(incarnation: &Incarnation, it: Described) -> Connector {
    let state = if it.draining {
        ConnectorState::Draining
    } else {
        ConnectorState::Live
    };
    Connector {
        version: it.version,
        start_time: it.start_time,
        connections: it.connections,
        sessions: it.sessions,
        state: state.into(),
        rules_hash: it.rules_hash,
        requests: it.requests,
        delivery_lag: it.delivery_lag,
        ..named(incarnation)
    }
}

fn gone(incarnation: &Incarnation) -> Connector {
    Connector {
        state: ConnectorState::Dead.into(),
        ..named(incarnation)
    }
}

fn named(incarnation: &Incarnation) -> Connector {
    Connector {
        name: name_of(incarnation).to_owned(),
        incarnation: incarnation.to_string(),
        ..Connector::default()
    }
}
