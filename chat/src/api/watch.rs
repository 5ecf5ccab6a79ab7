//! Watches of channels: what is asked for, and what is given.

use super::history::{checked_epoch, entry, told_as};
use crate::access::Permit;
use crate::calls::fields::Violations;
use crate::calls::{Calls, shown};
use crate::error::Error;
use crate::metering;
use crate::port::connections::Caller;
use crate::watch::{Begin, Event, MOST, Plan};
use channel_store::{ChannelName, Position, Route};
use futures_util::future::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::chat::v1;
use std::collections::HashSet;
use std::sync::Arc;
use tonic::Status;

/// The most channels of a watch without a prefix.
const NAMED: usize = 1_000;
/// The most routes of a watch.
const ROUTES: usize = 100;
/// The most bytes of a prefix: those of a name.
const PREFIX_BYTES: usize = 256;

/// What a watcher is given.
pub(super) type Events = BoxStream<'static, Result<v1::WatchResponse, Status>>;

pub(super) fn begin(
    calls: &Calls,
    caller: Option<&Arc<Caller>>,
    permit: &Permit,
    request: v1::WatchRequest,
) -> Result<Events, Error> {
    let body_as_struct = request.body_as_struct;
    let watcher = calls.watch(caller, check(permit, request)?)?;
    let revoked = permit.revoked().boxed();
    let state = Some((watcher, revoked));
    let events = stream::unfold(state, move |state| async move {
        let (mut watcher, mut revoked) = state?;
        let event = tokio::select! {
            biased;
            () = &mut revoked => {
                metering::refused(&Error::TokenRefused);
                return Some((Err(Error::TokenRefused.into()), None));
            }
            event = watcher.next() => event?,
        };
        let event = event.map(|event| response(event, body_as_struct));
        let event = event.map_err(|error| {
            metering::refused(&error);
            error.into()
        });
        Some((event, Some((watcher, revoked))))
    });
    Ok(events.boxed())
}

/// Of many wrong places only the first is told.
fn check(permit: &Permit, request: v1::WatchRequest) -> Result<Plan, Error> {
    let mut wrong = Violations::of(permit);
    let prefix = request.prefix;
    if prefix.is_none() && request.places.is_empty() {
        let error = "is required without a prefix: name the channels to watch, or set a prefix";
        wrong.check::<(), _>("places", Err(error));
    }
    let most = if prefix.is_some() { MOST } else { NAMED };
    if request.places.len() > most {
        wrong.check::<(), _>("places", Err(format!("must be at most {most}")));
        return Err(wrong.into());
    }
    let is_long = |it: &String| it.len() > PREFIX_BYTES;
    if prefix.as_ref().is_some_and(is_long) {
        let error = format!("must have at most {PREFIX_BYTES} bytes");
        wrong.check::<(), _>("prefix", Err(error));
    }
    if let Some(prefix) = &prefix {
        wrong.prefix("prefix", prefix);
    }
    let start = v1::WatchStart::try_from(request.start);
    let start = wrong.check("start", start.map_err(|_| "is not a value of WatchStart"));
    let others = match start {
        _ if request.resume => Begin::First,
        Some(v1::WatchStart::Oldest) => Begin::Oldest,
        _ => Begin::Now,
    };
    if request.routes.len() > ROUTES {
        wrong.check::<(), _>("routes", Err(format!("must be at most {ROUTES}")));
        return Err(wrong.into());
    }
    let mut routes = HashSet::new();
    for route in request.routes {
        match wrong.check("routes", Route::new(route)) {
            Some(route) => routes.insert(route.as_str().to_owned()),
            None => return Err(wrong.into()),
        };
    }
    let mut names = HashSet::new();
    let mut places = Vec::with_capacity(request.places.len());
    for place in request.places {
        match checked(&mut wrong, place, prefix.as_deref(), &others) {
            Some((name, begin)) if names.insert(name.clone()) => places.push((name, begin)),
            Some(_) => {
                wrong.check::<(), _>("places.channel", Err("must not be named twice"));
                break;
            }
            None => break,
        }
    }
    wrong.none()?;
    Ok(Plan {
        places,
        prefix,
        others,
        routes,
    })
}

fn checked(
    wrong: &mut Violations,
    place: v1::WatchPlace,
    prefix: Option<&str>,
    otherwise: &Begin,
) -> Option<(ChannelName, Begin)> {
    let name = wrong.channel("places.channel", place.channel)?;
    if prefix.is_some_and(|prefix| !name.as_str().starts_with(prefix)) {
        return wrong.check("places.channel", Err("must begin with the prefix"));
    }
    let Some(v1::Position { epoch, offset }) = place.position else {
        return Some((name, otherwise.clone()));
    };
    let epoch = wrong.check("places.position.epoch", checked_epoch(&epoch, offset))?;
    Some((name, Begin::After(Position { epoch, offset })))
}

fn response(event: Event, body_as_struct: bool) -> v1::WatchResponse {
    use v1::watch_response::Event as Told;
    let event = match event {
        Event::Started => Told::Started(v1::WatchStarted {}),
        Event::Opened(channel, position) => Told::Opened(v1::WatchOpened {
            channel: channel.to_string(),
            position: Some(shown(&position)),
        }),
        Event::Publication(channel, publication) => Told::Publication(v1::WatchPublication {
            channel: channel.to_string(),
            publication: Some(entry(&publication, body_as_struct)),
        }),
        Event::Gap(channel, continuity, position) => Told::Gap(v1::WatchGap {
            channel: channel.to_string(),
            continuity: told_as(continuity).into(),
            position: Some(shown(&position)),
        }),
        Event::Ended(channel) => Told::Ended(v1::WatchEnded {
            channel: channel.to_string(),
        }),
        Event::Progress(places) => {
            let place = |(channel, position): (ChannelName, Position)| v1::WatchPlace {
                channel: channel.to_string(),
                position: Some(shown(&position)),
            };
            Told::Progress(v1::WatchProgress {
                places: places.into_iter().map(place).collect(),
            })
        }
    };
    v1::WatchResponse { event: Some(event) }
}
