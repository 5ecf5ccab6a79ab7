//! Hooks that say no, answer nonsense, are slow, hang, die and come back.

use super::*;
use crate::metering::HOOK_CALLS;
use crate::operator::CALLS;
use crate::testing::counters::Counters;
use crate::testing::hook::{LIMIT, Operator, TIMEOUT};
use crate::testing::process::{self, Process};
use crate::testing::soon;
use channel_store::UserInfo;
use proto::access::v1::{
    AuthorizeChannelsResponse, AuthorizeSendResponse, Capability, ChannelAnswer, Denial, Denied,
    Granted, LoginResponse, Right, authorize_send_response, login_response,
};
use serde_json::json;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use wire::Reason;

fn settings() -> HookSettings {
    HookSettings::default()
}

/// A hook in this process, which decides about logins.
fn in_process() -> (Operator, Arc<Hook>) {
    let (operator, service) = Operator::in_process();
    let service = Service::in_process("access", service, CALLS);
    (
        operator,
        Hook::in_process(service, &settings(), true, LIMIT),
    )
}

/// A hook at this address.
fn at(address: SocketAddr) -> Arc<Hook> {
    let uri = Uri::from_static("http://access:5001");
    let service = Service::new(&uri, CALLS, OUTAGE);
    service.update(&uri, &[address]);
    Arc::new(Hook::of(service, uri, &settings(), true, LIMIT))
}

/// A hook behind a socket.
fn serve(listener: TcpListener) -> (Operator, Process) {
    let (operator, server) = Operator::new();
    (operator, process::serve(listener, server))
}

async fn listen() -> (TcpListener, SocketAddr) {
    process::listen(3).await
}

fn in_time() -> Instant {
    Instant::now() + 2 * TIMEOUT
}

fn request() -> LoginRequest {
    LoginRequest {
        token: "secret".to_owned(),
        user: "ann".to_owned(),
        ..LoginRequest::default()
    }
}

fn granted(user: &str) -> Granted {
    Granted {
        user: user.to_owned(),
        ..Granted::default()
    }
}

fn yes(granted: Granted) -> LoginResponse {
    LoginResponse {
        outcome: Some(login_response::Outcome::Granted(granted)),
    }
}

fn no(denial: Denial, reason: &str) -> LoginResponse {
    LoginResponse {
        outcome: Some(login_response::Outcome::Denied(Denied {
            denial: denial.into(),
            reason: reason.to_owned(),
        })),
    }
}

/// A login that the hook answers in this way.
async fn login(
    hook: &Hook,
    operator: &mut Operator,
    answer: Result<LoginResponse, Status>,
) -> Result<Claims, HookError> {
    let asked = hook.login(request(), in_time());
    tokio::join!(asked, async { operator.login().await.respond(answer) }).0
}

/// A look that the hook answers if it gets it.
async fn looked(hook: &Hook, operator: &mut Operator) -> Result<(), String> {
    let mut look = std::pin::pin!(hook.look());
    tokio::select! {
        looked = &mut look => looked,
        call = operator.channels() => {
            call.answer(AuthorizeChannelsResponse::default());
            look.await
        }
    }
}

fn seconds_of(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(start_paused = true)]
async fn a_login_begins_with_what_the_hook_says() {
    let (mut operator, hook) = in_process();
    let answer = Granted {
        ttl: seconds_of(60),
        caps: vec![Capability {
            channels: vec!["game:*".to_owned()],
            allow: vec![Right::Send.into(), 77, Right::Unspecified.into()],
        }],
        channels: vec!["a".to_owned(), "b".to_owned(), "a".to_owned()],
        info: proto::json::parse(r#"{"name":"安"}"#.as_bytes()),
        ..granted("ann")
    };
    let asked = hook.login(request(), in_time());
    let (claims, seen) = tokio::join!(asked, async { operator.login().await.answer(yes(answer)) });
    assert_eq!(seen, request());
    let claims = claims.unwrap();
    assert_eq!(claims.user.as_str(), "ann");
    let left = crate::access::ttl(&claims).unwrap();
    assert!((58..=60).contains(&left), "{left}");
    let names: Vec<_> = claims.channels.iter().map(|it| it.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let info = claims.info.as_ref().map(UserInfo::as_str);
    assert_eq!(info, Some(r#"{"name":"安"}"#));
    let channel = |name: &str| ChannelName::new(name).unwrap();
    for (right, name, expected) in [
        (crate::access::Right::Send, "game:1", true),
        (crate::access::Right::Join, "game:1", false),
        (crate::access::Right::Join, "a", true),
        (crate::access::Right::Send, "a", false),
    ] {
        let allowed = claims.grants.allow(right, &channel(name));
        assert_eq!(allowed, expected, "{right} {name}");
    }
    let for_ever = login(&hook, &mut operator, Ok(yes(granted("ann")))).await;
    assert_eq!(crate::access::ttl(&for_ever.unwrap()), None);
}

#[tokio::test(start_paused = true)]
async fn only_a_no_of_the_hook_is_a_no_and_every_failure_may_be_tried_again() {
    let (mut operator, hook) = in_process();
    for (denial, told) in [
        (Denial::Unspecified, Reason::TokenInvalid),
        (Denial::Unauthenticated, Reason::TokenInvalid),
        (Denial::Expired, Reason::TokenExpired),
        (Denial::Forbidden, Reason::NotAllowed),
    ] {
        let answer = no(denial, &"x".repeat(500));
        let denied = login(&hook, &mut operator, Ok(answer)).await.unwrap_err();
        assert_eq!(denied.reason(), told);
        assert!(denied.to_string().len() < 250, "{denied}");
    }
    for status in [
        Status::unauthenticated("this connector is not known"),
        Status::permission_denied(""),
        Status::internal("bug"),
        Status::unimplemented(""),
        Status::resource_exhausted("slow down"),
        Status::deadline_exceeded(""),
    ] {
        let failed = login(&hook, &mut operator, Err(status)).await.unwrap_err();
        assert_eq!(failed.reason(), Reason::Unavailable, "{failed}");
    }
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_makes_no_sense_lets_nobody_in_and_may_be_tried_again() {
    let (mut operator, hook) = in_process();
    let many = |count: usize| (0..count).map(|it| it.to_string()).collect::<Vec<_>>();
    let capability = |channels| Granted {
        caps: vec![Capability {
            channels,
            allow: vec![Right::Join.into()],
        }],
        ..granted("ann")
    };
    let large = json!({"text": "x".repeat(1 << 10)}).to_string();
    for (answer, says) in [
        (LoginResponse::default(), "neither granted nor denied"),
        (yes(granted("")), "no name"),
        (yes(granted(" \u{a0}")), "no name"),
        (yes(granted("admin\u{200b}")), "no name"),
        (yes(granted("\u{202e}nimda")), "no name"),
        (yes(granted(&"x".repeat(129))), "no name"),
        (
            yes(Granted {
                ttl: seconds_of(0),
                ..granted("ann")
            }),
            "shorter than a second",
        ),
        (
            yes(Granted {
                ttl: seconds_of(-5),
                ..granted("ann")
            }),
            "shorter than a second",
        ),
        (
            yes(Granted {
                channels: many(101),
                ..granted("ann")
            }),
            "101 channels",
        ),
        (
            yes(Granted {
                channels: vec![String::new()],
                ..granted("ann")
            }),
            "a channel of the answer",
        ),
        (yes(capability(many(501))), "over 500"),
        (yes(capability(vec![String::new()])), "a pattern"),
        (
            yes(Granted {
                info: proto::json::parse(large.as_bytes()),
                ..granted("ann")
            }),
            "at most 1024 bytes",
        ),
    ] {
        let failed = login(&hook, &mut operator, Ok(answer)).await.unwrap_err();
        assert_eq!(failed.reason(), Reason::Unavailable, "{failed}");
        assert!(failed.to_string().contains(says), "{failed}");
    }
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_is_not_available_is_asked_once_more_and_an_answer_never() {
    let (mut operator, hook) = in_process();
    let asked = hook.login(request(), in_time());
    let (claims, ()) = tokio::join!(asked, async {
        let away = || Err(Status::unavailable("restarting"));
        operator.login().await.respond(away());
        operator.login().await.answer(yes(granted("ann")));
    });
    assert_eq!(claims.unwrap().user.as_str(), "ann");
    let asked = hook.login(request(), in_time());
    let (failed, ()) = tokio::join!(asked, async {
        for _ in 0..2 {
            let away = Err(Status::unavailable("restarting"));
            operator.login().await.respond(away);
        }
    });
    assert_eq!(failed.unwrap_err().reason(), Reason::Unavailable);
    operator.nobody_calls().await;
    let denied = login(&hook, &mut operator, Ok(no(Denial::Forbidden, ""))).await;
    assert!(denied.is_err());
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_has_a_second_and_never_more_than_the_client() {
    let (mut operator, hook) = in_process();
    for (left, expected) in [
        (2 * TIMEOUT, TIMEOUT),
        (TIMEOUT / 4, TIMEOUT / 4),
        (Duration::ZERO, Duration::ZERO),
    ] {
        let begun = Instant::now();
        let asked = hook.login(request(), begun + left);
        let (failed, mut call) = tokio::join!(asked, async {
            match left.is_zero() {
                true => None,
                false => Some(operator.login().await),
            }
        });
        assert_eq!(failed.unwrap_err().reason(), Reason::Unavailable);
        assert_eq!(begun.elapsed().as_millis(), expected.as_millis());
        if let Some(call) = &mut call {
            call.cancelled().await;
        }
    }
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_are_bounded_and_one_too_many_is_told_to_try_later() {
    let counters = Counters::default();
    let _recording = metrics::set_default_local_recorder(&counters);
    let (mut operator, service) = Operator::in_process();
    let settings = HookSettings {
        in_flight: 2,
        ..settings()
    };
    let service = Service::in_process("access", service, 2);
    let hook = Hook::in_process(service, &settings, true, LIMIT);
    let held: Vec<_> = (0..2)
        .map(|_| {
            let hook = Arc::clone(&hook);
            AbortOnDropHandle::new(tokio::spawn(async move {
                hook.login(request(), in_time()).await.map(drop)
            }))
        })
        .collect();
    let first = operator.login().await;
    let mut second = operator.login().await;
    let begun = Instant::now();
    let refused = hook.login(request(), in_time()).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::TryLater);
    assert!(begun.elapsed().is_zero(), "nobody waits");
    // A call that is over makes room, also if it was cancelled.
    first.answer(yes(granted("ann")));
    drop(held);
    second.cancelled().await;
    let claims = login(&hook, &mut operator, Ok(yes(granted("ann")))).await;
    assert!(claims.is_ok());
    let series = |outcome: &str| ["login", outcome].map(str::to_owned).to_vec();
    let counted = counters.series(HOOK_CALLS);
    assert_eq!(counted.get(&series("overloaded")), Some(&1), "{counted:?}");
    assert!(counted.contains_key(&series("cancelled")), "{counted:?}");
    assert!(counted.contains_key(&series("answered")), "{counted:?}");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_a_failure() {
    let (listener, address) = listen().await;
    let hook = at(address);
    let (mut operator, _serving) = serve(listener);
    let claims = login(&hook, &mut operator, Ok(yes(granted("ann")))).await;
    assert!(claims.is_ok());
    let large = no(Denial::Forbidden, &"x".repeat(LARGEST));
    let failed = login(&hook, &mut operator, Ok(large)).await.unwrap_err();
    assert_eq!(failed.reason(), Reason::Unavailable, "{failed}");
    assert!(failed.to_string().contains("too large"), "{failed}");
    let request = AuthorizeSendRequest::default();
    let (sent, _) = tokio::join!(hook.send(request, in_time()), async {
        let json = json!({"text": "x".repeat(LIMIT * 2)}).to_string();
        operator.send().await.answer(AuthorizeSendResponse {
            allowed: true,
            content: Some(authorize_send_response::Content::BodyJson(json.into())),
        })
    });
    assert_eq!(sent.unwrap_err().reason(), Reason::Unavailable);
}

#[tokio::test]
async fn a_hook_that_dies_lets_nobody_in_and_works_again_when_it_is_back() {
    let (listener, address) = listen().await;
    let hook = at(address);
    let (mut operator, serving) = serve(listener);
    assert_eq!(looked(&hook, &mut operator).await, Ok(()));
    assert!(*hook.is_ready().borrow());
    assert_eq!(hook.trouble(), None);
    drop(serving);
    let refused = hook.login(request(), in_time()).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::Unavailable, "{refused}");
    assert!(hook.look().await.is_err());
    assert!(!*hook.is_ready().borrow());
    assert!(hook.trouble().unwrap().contains("http://access:5001"));

    let listener = TcpListener::bind(address).await.unwrap();
    let (mut operator, _serving) = serve(listener);
    soon(async {
        while looked(&hook, &mut operator).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(*hook.is_ready().borrow());
    let claims = login(&hook, &mut operator, Ok(yes(granted("ann")))).await;
    assert!(claims.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_is_not_ready_and_one_that_only_decides_about_channels_always_is() {
    let (mut operator, service) = Operator::in_process();
    let service = Service::in_process("access", service, CALLS);
    for decides_logins in [true, false] {
        let hook = Hook::in_process(Arc::clone(&service), &settings(), decides_logins, LIMIT);
        assert_eq!(*hook.is_ready().borrow(), !decides_logins);
        let (looked, _call) = tokio::join!(hook.look(), operator.channels());
        assert!(looked.is_err());
        assert!(hook.trouble().is_some());
        assert_eq!(*hook.is_ready().borrow(), !decides_logins);
        // Whatever it says, it is there.
        let (looked, request) = tokio::join!(hook.look(), async {
            let unknown = Err(Status::unimplemented("no such call"));
            operator.channels().await.respond(unknown)
        });
        assert_eq!((looked, request.channels.len()), (Ok(()), 0));
        assert!(*hook.is_ready().borrow());
        assert_eq!(hook.trouble(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_answer_about_channels_does_not_name_is_denied_and_its_time_is_bounded() {
    use crate::access::Right as Own;
    let (mut operator, hook) = in_process();
    let names = ["a", "b", "c"].map(|it| ChannelName::new(it).unwrap());
    let both = Rights::NONE.with(Own::Join).with(Own::History);
    let questions: Vec<_> = names.iter().map(|it| (it.clone(), both)).collect();
    for (ttl, expected) in [
        (None, 30),
        (seconds_of(0), 1),
        (seconds_of(600), 600),
        (seconds_of(1_000_000), 86_400),
    ] {
        let request = AuthorizeChannelsRequest::default();
        let asked = hook.channels(request, &questions, in_time());
        let (decided, request) = tokio::join!(asked, async {
            let answer = |channel: &str, allowed: &[Right]| ChannelAnswer {
                channel: channel.to_owned(),
                allowed: allowed.iter().map(|it| i32::from(*it)).collect(),
            };
            operator.channels().await.answer(AuthorizeChannelsResponse {
                channels: vec![
                    answer("b", &[Right::Join]),
                    answer("a", &[Right::History, Right::Join]),
                    answer("another", &[Right::Join]),
                ],
                cache_ttl: ttl,
            })
        });
        let decided = decided.unwrap();
        assert_eq!(decided.ttl, Duration::from_secs(expected));
        let allowed = names.each_ref().map(|it| decided.allowed(it));
        assert_eq!(allowed, [both, Rights::NONE.with(Own::Join), Rights::NONE]);
        let asked: Vec<_> = request.channels[0].rights.clone();
        assert_eq!(asked, [1, 3]);
    }
    let request = AuthorizeChannelsRequest::default();
    let asked = hook.channels(request, &questions, in_time());
    let (decided, _) = tokio::join!(asked, async {
        operator.channels().await.answer(AuthorizeChannelsResponse {
            channels: vec![],
            cache_ttl: seconds_of(-1),
        })
    });
    assert_eq!(decided.unwrap_err().reason(), Reason::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_changed_message_must_be_an_object_that_is_not_too_large() {
    use authorize_send_response::Content;
    let (mut operator, hook) = in_process();
    let large = json!({"text": "x".repeat(LIMIT)}).to_string();
    let json = |text: &str| Some(Content::BodyJson(text.into()));
    for (content, expected) in [
        (None, Ok(None)),
        (json(r#"{ "a":1.0 }"#), Ok(Some(r#"{ "a":1.0 }"#))),
        (
            proto::json::parse(br#"{"a":1}"#).map(Content::Body),
            Ok(Some(r#"{"a":1}"#)),
        ),
        (json("[]"), Err(Reason::Unavailable)),
        (json(""), Err(Reason::Unavailable)),
        (json(&large), Err(Reason::Unavailable)),
    ] {
        let request = AuthorizeSendRequest::default();
        let (sent, _) = tokio::join!(hook.send(request, in_time()), async {
            let answer = AuthorizeSendResponse {
                allowed: true,
                content,
            };
            operator.send().await.answer(answer)
        });
        let sent = sent.map_err(|error| error.reason());
        let expected = expected.map(|it| it.map(|text| Bytes::from(text.to_owned())));
        assert_eq!(sent, expected);
    }
}

#[test]
fn settings_that_ask_nobody_or_cannot_be_used_are_refused() {
    let with = |target: &str| HookSettings {
        target: Some(target.to_owned()),
        ..settings()
    };
    let open = |settings: &HookSettings| {
        let opened = Hook::open(settings, true, LIMIT);
        opened.err().map(|error| error.to_string())
    };
    assert_eq!(open(&with("http://access:5001")), None);
    let missing = open(&settings()).unwrap();
    assert!(missing.contains("set auth.hook.target"), "{missing}");
    assert!(Hook::open(&settings(), false, LIMIT).unwrap().is_none());
    for wrong in ["access:5001", "http://u:secret@access", ""] {
        let error = open(&with(wrong)).unwrap();
        assert!(error.starts_with("auth.hook.target: "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
