//! A session's questions about its channels: who is a member, and what was published.

use super::Handlers;
use super::parameters::{ListMembers, ReadHistory};
use super::read_turns::Turn;
use super::replies::Answer;
use crate::access::Right;
use crate::chat_client::CallError;
use channel_store::ChannelName;
use proto::chat::v1::member::About;
use proto::chat::v1::publication::Content;
use proto::chat::v1::{
    Continuity, HistoryRequest, HistoryResponse, ListMembersRequest, ListMembersResponse, Position,
    Publication,
};
use proto::time::milliseconds;
use serde_json::Value;
use std::fmt::Write;
use tokio::time::{Instant, timeout_at};
use wire::{Reason, Refusal, RequestBody};

/// Publications of a page, unless the client asks for another number.
const PAGE: u32 = 50;

impl Handlers {
    /// A page of a channel's members.
    pub(super) async fn members(&mut self, body: &RequestBody, deadline: Instant) -> Answer {
        let asked = ListMembers::parse(body)?;
        let channel = asked.channel.as_ref();
        self.decide_right(channel, Right::Members, deadline).await?;
        let channel = self
            .channel(asked.channel.as_ref(), Right::Members)?
            .clone();
        let request = ListMembersRequest {
            channel: channel.to_string(),
            page_size: asked.page_size,
            page_token: asked.page_token,
            page_bytes: u32::try_from(self.connection.share()).unwrap_or(u32::MAX),
            ..ListMembersRequest::default()
        };
        let (_turn, deadline) = self.turn(&channel, deadline).await?;
        let page = seen(self.services.chat.members(request, deadline).await)?;
        let text = members(&page);
        self.reader.has_read(text.len());
        Ok(text.into())
    }

    /// A page of a channel's log.
    pub(super) async fn history(&mut self, body: &RequestBody, deadline: Instant) -> Answer {
        let asked = ReadHistory::parse(body)?;
        let channel = asked.channel.as_ref();
        self.decide_right(channel, Right::History, deadline).await?;
        let channel = self
            .channel(asked.channel.as_ref(), Right::History)?
            .clone();
        let request = HistoryRequest {
            channel: channel.to_string(),
            newest_first: asked.newest_first,
            from: asked.from.map(|from| Position {
                epoch: from.epoch.as_str().to_owned(),
                offset: from.offset,
            }),
            page_size: match asked.page_size {
                0 => PAGE,
                size => size,
            },
            page_bytes: u32::try_from(self.connection.share()).unwrap_or(u32::MAX),
            ..HistoryRequest::default()
        };
        let (_turn, deadline) = self.turn(&channel, deadline).await?;
        let page = seen(self.services.chat.history(request, deadline).await)?;
        let text = history(&page, self.connection.share());
        self.reader.has_read(text.len());
        Ok(text.into())
    }

    /// The channel to look at. Only its members may do so, and only if they have this right.
    fn channel(
        &self,
        channel: Option<&ChannelName>,
        right: Right,
    ) -> Result<&ChannelName, Refusal> {
        let session = self.session.as_ref().ok_or(Reason::NotLoggedIn)?;
        let place = session.joined(channel).ok_or(Reason::NotJoined)?;
        Ok(place.allow(right)?.membership.channel())
    }

    /// The turn at reading a page, which lasts until the page is read, and the deadline for chat's answer.
    ///
    /// A page is long. So none is asked for before the client has read most of what was sent to it, and no page is kept
    /// while a client does not read. The time that the client took for this does not count.
    async fn turn(
        &mut self,
        channel: &ChannelName,
        deadline: Instant,
    ) -> Result<(Turn, Instant), Refusal> {
        let asked = Instant::now();
        if let Some(paces) = &mut self.paces {
            paces.read(asked)?;
        }
        self.connection.room().await;
        let deadline = deadline + asked.elapsed();
        let turn = self.services.reads.take(&mut self.reader, channel);
        match timeout_at(deadline, turn).await {
            Ok(turn) => Ok((turn, deadline)),
            Err(_) => Err(Reason::Unavailable.into()),
        }
    }
}

/// The page, or why there is none. A read changes nothing, so an unknown outcome is simply a failure.
fn seen<T>(page: Result<T, CallError>) -> Result<T, Refusal> {
    page.map_err(|error| {
        tracing::debug!(%error, "can't look");
        match error {
            CallError::Refused { reason } => Reason::of_chat(&reason).into(),
            CallError::Late { .. } | CallError::Unreachable | CallError::Unknown => {
                Reason::Unavailable.into()
            }
        }
    })
}

fn members(page: &ListMembersResponse) -> String {
    let members = page.members.iter().map(|member| {
        let user = Value::from(&*member.user);
        let sessions = member.sessions;
        let info = match &member.about {
            Some(About::InfoJson(info)) => {
                format!(r#","info":{}"#, String::from_utf8_lossy(info))
            }
            Some(About::Info(_)) | None => String::new(),
        };
        format!(r#"{{"userId":{user},"sessions":{sessions}{info}}}"#)
    });
    let members = members.collect::<Vec<_>>().join(",");
    let token = Value::from(&*page.next_page_token);
    let users = page.total_users;
    format!(r#"{{"code":0,"members":[{members}],"users":{users},"nextPageToken":{token}}}"#)
}

/// Ends the page before it exceeds `limit` bytes, but not before its first publication.
fn history(page: &HistoryResponse, limit: usize) -> String {
    let continuity = match page.continuity() {
        Continuity::Unspecified | Continuity::Contiguous => "contiguous",
        Continuity::Diverged => "diverged",
        Continuity::Trimmed => "trimmed",
        Continuity::Unknown => "unknown",
    };
    let mut more = !page.next_page_token.is_empty();
    let mut text = String::from(r#"{"code":0,"publications":["#);
    let mut is_first = true;
    for publication in &page.publications {
        let begin = text.len();
        if !is_first {
            text.push(',');
        }
        write_publication(publication, &mut text);
        if text.len() > limit && !is_first {
            text.truncate(begin);
            more = true;
            break;
        }
        is_first = false;
    }
    let position = position(page.position.as_ref());
    // Writing to a string can't fail.
    let _ = write!(
        text,
        r#"],"more":{more},"continuity":"{continuity}","position":{position}}}"#
    );
    text
}

fn write_publication(publication: &Publication, text: &mut String) {
    let (epoch, offset) = match &publication.position {
        Some(at) => (Value::from(&*at.epoch), at.offset),
        None => (Value::Null, 0),
    };
    let body = match &publication.content {
        Some(Content::BodyJson(body)) => String::from_utf8_lossy(body),
        Some(Content::Body(_)) | None => "{}".into(),
    };
    let route = Value::from(&*publication.route);
    let time = publication.publish_time.as_ref();
    let time = time.and_then(milliseconds).unwrap_or_default();
    // As above.
    let _ = write!(
        text,
        r#"{{"route":{route},"epoch":{epoch},"offset":{offset},"time":{time},"body":{body}}}"#
    );
}

fn position(position: Option<&Position>) -> String {
    position.map_or_else(
        || "null".to_owned(),
        |Position { epoch, offset }| {
            let epoch = Value::from(&**epoch);
            format!(r#"{{"epoch":{epoch},"offset":{offset}}}"#)
        },
    )
}
