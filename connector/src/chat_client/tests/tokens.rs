//! The token that is shown to chats: how it changes, and what happens when a chat refuses it.

use super::{Sender, chat_of};
use crate::chat_client::ChatToken;
use crate::chat_client::source::ChatService;
use crate::grpc::TransportError;
use crate::testing::chat::Instance;
use crate::testing::let_run;
use parking_lot::Mutex;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "chat.v1", []);
    Status::with_error_details(code, "no", details)
}

#[tokio::test(start_paused = true)]
async fn when_an_old_token_is_taken_out_the_stream_is_opened_again_and_nothing_is_lost() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let stream = instance.stream().await;
    let_run().await;
    let mut available = chat.available();
    assert!(*available.borrow_and_update());
    let mut sender = Sender::new(&chat);
    sender.send("1");
    let_run().await;
    stream.end(refusal(Code::Unauthenticated, "TOKEN_REFUSED"));
    let mut stream = instance.stream().await;
    stream.take().await;
    assert_eq!(sender.answer().await, "1 sent");
    let was_away = available.has_changed().unwrap();
    assert!(!was_away, "chat was not available in between");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_in_words_that_say_what_to_do() {
    for (code, reason, words) in [
        (
            Code::Unauthenticated,
            "TOKEN_MISSING",
            "set --chat-token-file",
        ),
        (
            Code::Unauthenticated,
            "TOKEN_REFUSED",
            "this connector's token is refused",
        ),
        (
            Code::PermissionDenied,
            "SCOPE_MISSING",
            "lacks the scope connector",
        ),
    ] {
        let mut instance = Instance::new();
        let chat = chat_of(&[&instance]);
        let call = instance.stream_call().await;
        call.answer(Err(refusal(code, reason)));
        let_run().await;
        let told = chat.troubles().unwrap();
        assert!(told.starts_with("0: ") && told.contains(words), "{told}");
    }
}

/// A chat that refuses every caller and notes what it was shown.
fn strict() -> (ChatService, Arc<Mutex<Vec<String>>>) {
    let shown = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&shown);
    let chat = service_fn(move |request: http::Request<Body>| {
        let header = &request.headers()["authorization"];
        assert!(header.is_sensitive(), "no library may log it");
        noted.lock().push(header.to_str().unwrap().to_owned());
        let refused = Status::unauthenticated("no").into_http();
        async move { Ok::<_, TransportError>(refused) }
    });
    (BoxCloneSyncService::new(chat), shown)
}

async fn call(chat: &ChatService) {
    let request = http::Request::new(Body::empty());
    chat.clone().oneshot(request).await.unwrap();
}

async fn until_shown(chat: &ChatService, shown: &Mutex<Vec<String>>, header: &str) {
    while shown.lock().last().is_none_or(|it| it != header) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        call(chat).await;
    }
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_a_chat_refuses_is_read_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    write(&path, "one\n");
    let token = ChatToken::open(&path).unwrap();
    let (chat, shown) = strict();
    let chat = token.shown_to(chat);
    call(&chat).await;
    assert_eq!(*shown.lock(), ["Bearer one"]);
    write(&path, "two");
    let began = Instant::now();
    until_shown(&chat, &shown, "Bearer two").await;
    assert!(began.elapsed() < Duration::from_secs(1));
    // What cannot be used leaves the token as it was.
    for broken in ["", "three four", "three\u{7f}"] {
        write(&path, broken);
        for _ in 0..20 {
            call(&chat).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(shown.lock().last().unwrap(), "Bearer two", "{broken:?}");
    }
    fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    write(&path, "five");
    until_shown(&chat, &shown, "Bearer five").await;
}

#[tokio::test]
async fn a_file_without_a_single_token_is_refused_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let long = "x".repeat(5_000);
    for (text, reason) in [
        ("", "must hold one token"),
        ("secret line\n", "must hold one token"),
        (&long, "must hold one token"),
        ("secret\u{7f}", "no token"),
    ] {
        write(&path, text);
        let error = ChatToken::open(&path).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("token: "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    let error = ChatToken::open(&path).unwrap_err().to_string();
    assert!(error.contains("cannot read it"), "{error}");
}
