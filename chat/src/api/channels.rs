//! Which channels there are, and what is known of them.

use super::pages::{Arguments, WRONG_TOKEN, page_size};
use crate::access::Permit;
use crate::calls::fields::Violations;
use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::{ChannelName, ChannelStore, ChannelSummary, IdempotencyKey};
use proto::chat::v1::{
    Channel, CountMembersRequest, CountMembersResponse, DeleteChannelRequest,
    DeleteChannelResponse, GetChannelRequest, GetChannelResponse, ListChannelsRequest,
    ListChannelsResponse, MemberCount,
};
use proto::time::timestamp;

/// The most channels whose members are counted by one call.
const COUNTED: usize = 1_000;

pub(super) async fn count_members(
    calls: &Calls,
    permit: &Permit,
    request: CountMembersRequest,
) -> Result<CountMembersResponse, Error> {
    let mut wrong = Violations::of(permit);
    if !(1..=COUNTED).contains(&request.channels.len()) {
        let error = format!("must be 1 to {COUNTED} names");
        return Err(Error::invalid("channels", error));
    }
    let names = request.channels.into_iter();
    let names = names.map_while(|name| wrong.channel("channels", name));
    let channels: Vec<_> = names.collect();
    if !wrong.is_empty() {
        return Err(wrong.into());
    }
    let summaries = calls.store.summaries(&channels).await?;
    let count = |(channel, summary): (ChannelName, Option<ChannelSummary>)| MemberCount {
        channel: channel.as_str().to_owned(),
        users: summary.as_ref().map_or(0, |it| it.users),
        sessions: summary.map_or(0, |it| it.sessions),
    };
    Ok(CountMembersResponse {
        counts: channels.into_iter().zip(summaries).map(count).collect(),
    })
}

pub(super) async fn get(
    calls: &Calls,
    permit: &Permit,
    request: GetChannelRequest,
) -> Result<GetChannelResponse, Error> {
    let mut wrong = Violations::of(permit);
    let channel = wrong.channel("channel", request.channel);
    let channel = channel.ok_or(wrong)?;
    let summaries = calls
        .store
        .summaries(std::slice::from_ref(&channel))
        .await?;
    let summary = summaries.into_iter().next().flatten();
    let summary = summary.ok_or(Error::ChannelNotFound)?;
    Ok(GetChannelResponse {
        channel: Some(entry(&*calls.store, &channel, &summary)),
    })
}

pub(super) async fn list(
    calls: &Calls,
    permit: &Permit,
    request: ListChannelsRequest,
) -> Result<ListChannelsResponse, Error> {
    let mut wrong = Violations::of(permit);
    let arguments = Arguments::of(&[b"ListChannels", request.prefix.as_bytes()]);
    // A text that no name may contain is not the beginning of a name either.
    let prefix = wrong.optional("prefix", request.prefix, |prefix| {
        ChannelName::new(prefix).map_err(|error| error.to_string())
    });
    let token = wrong.optional("page_token", request.page_token, |token| {
        let token = arguments.open(&token).map(str::to_owned);
        token.ok_or_else(|| WRONG_TOKEN.to_owned())
    });
    let (Some(prefix), Some(token)) = (prefix, token) else {
        return Err(wrong.into());
    };
    let prefix = prefix.as_ref().map_or("", ChannelName::as_str);
    wrong.prefix("prefix", prefix);
    wrong.none()?;
    let size = page_size(request.page_size);
    let page = calls.store.channels(prefix, token.as_deref(), size).await?;
    let channels = page.channels.iter();
    Ok(ListChannelsResponse {
        channels: channels
            .map(|(channel, summary)| entry(&*calls.store, channel, summary))
            .collect(),
        next_page_token: page.next.map(|it| arguments.seal(&it)).unwrap_or_default(),
    })
}

pub(super) async fn delete(
    calls: &Calls,
    permit: &Permit,
    request: DeleteChannelRequest,
) -> Result<DeleteChannelResponse, Error> {
    let mut wrong = Violations::of(permit);
    let channel = wrong.channel("channel", request.channel);
    let key = wrong.optional("idempotency_key", request.idempotency_key, |text| {
        IdempotencyKey::new(text).map_err(|error| error.to_string())
    });
    let (Some(channel), Some(key)) = (channel, key) else {
        return Err(wrong.into());
    };
    let deleted = calls.store.delete(&channel, key.as_ref()).await?;
    let position = deleted.ok_or(Error::ChannelNotFound)?;
    Ok(DeleteChannelResponse {
        position: Some(shown(&position)),
    })
}

fn entry(store: &dyn ChannelStore, channel: &ChannelName, summary: &ChannelSummary) -> Channel {
    Channel {
        name: channel.as_str().to_owned(),
        position: Some(shown(&summary.end)),
        users: summary.users,
        sessions: summary.sessions,
        held: summary.held,
        held_bytes: summary.held_bytes,
        oldest_publish_time: summary.oldest.map(timestamp),
        newest_publish_time: summary.newest.map(timestamp),
        log_rule: store.log_rule(channel).unwrap_or_default(),
    }
}
