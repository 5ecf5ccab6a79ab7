//! Lists connectors.

use super::connectors::{Asked, Connectors, name_of};
use crate::error::Error;
use channel_store::Incarnation;
use proto::chat::v1::{Connector, ConnectorState, ListConnectorsResponse};
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::connector::v1::{DescribeAction, Described};

pub(super) async fn list(connectors: &Connectors) -> Result<ListConnectorsResponse, Error> {
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
    Ok(ListConnectorsResponse { connectors: listed })
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
