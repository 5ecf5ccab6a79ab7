//! How keys change while the process runs.

use super::*;
use crate::testing::logged::Logged;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::net::SocketAddr;
use testkit::tls::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, advance};
use wire::Reason;

/// Serves these answers, one after the other, and the last one again and again. Counts the requests.
struct Served {
    address: SocketAddr,
    requests: Arc<Mutex<usize>>,
    answers: Arc<Mutex<VecDeque<String>>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn serve(answers: Vec<String>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(0));
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let (counted, left) = (Arc::clone(&requests), Arc::clone(&answers));
    let task = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(socket.read_buf(&mut request).await.unwrap() > 0);
            }
            *counted.lock() += 1;
            let answer = {
                let mut left = left.lock();
                if left.len() > 1 {
                    left.pop_front()
                } else {
                    left.front().cloned()
                }
            };
            // The other side may have ended before it has read everything.
            let _ = socket.write_all(answer.unwrap().as_bytes()).await;
        }
    });
    Served {
        address,
        requests,
        answers,
        _task: tokio_util::task::AbortOnDropHandle::new(task),
    }
}

impl Served {
    fn verifier(&self) -> Arc<Verifier> {
        let issuer = IssuerSettings {
            jwks_url: Some(format!("http://{}/keys", self.address)),
            ..settings(&[Algorithm::ES256])
        };
        Verifier::open(&[issuer], Duration::from_secs(30)).unwrap()
    }

    fn requests(&self) -> usize {
        *self.requests.lock()
    }
}

fn keep(verifier: &Arc<Verifier>) -> tokio_util::task::AbortOnDropHandle<()> {
    let verifier = Arc::clone(verifier);
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(
        async move { match verifier.keep().await {} },
    ))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A token that names its key.
fn signed(signer: &Signer, key: &str) -> String {
    signer.token_with(&json!({"kid": key}), &claims("ann", &json!({})))
}

#[tokio::test]
async fn keys_are_fetched_at_the_start_and_at_once_when_a_token_names_a_new_one() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let both = jwks(&[("old", &old), ("new", &new)]);
    let served = serve(vec![ok(&jwks(&[("old", &old)])), ok(&both)]).await;
    let verifier = served.verifier();
    assert!(!*verifier.has_keys().borrow(), "nothing was fetched yet");
    assert!(verifier.trouble().unwrap().contains("not fetched yet"));
    let _keeping = keep(&verifier);
    verifier.has_keys().wait_for(|has| *has).await.unwrap();
    assert_eq!(verifier.trouble(), None);
    assert!(verifier.check(&signed(&old, "old"), soon()).await.is_ok());
    // The keys were fetched a moment ago, so an unknown key does not let them be fetched again.
    for _ in 0..5 {
        let refused = verifier.check(&signed(&new, "new"), soon()).await;
        assert_eq!(refused, Err(Rejected::UnknownKey));
    }
    assert_eq!(served.requests(), 1);
    tokio::time::pause();
    advance(Duration::from_secs(30)).await;
    tokio::time::resume();
    assert!(verifier.check(&signed(&new, "new"), soon()).await.is_ok());
    assert!(verifier.check(&signed(&old, "old"), soon()).await.is_ok());
    assert_eq!(served.requests(), 2);
}

#[tokio::test]
async fn keys_come_over_tls_from_a_server_that_the_named_authority_has_certified() {
    let (signer, authority) = (Signer::p256(), Authority::new());
    let served = serve(vec![ok(&jwks(&[("k", &signer)]))]).await;
    let (address, _proxy) = authority.terminate(served.address).await;
    let issuer = IssuerSettings {
        jwks_url: Some(format!("https://{address}/keys")),
        jwks_ca_file: Some(authority.ca()),
        ..settings(&[Algorithm::ES256])
    };
    let verifier = Verifier::open(&[issuer], Duration::from_secs(30)).unwrap();
    let _keeping = keep(&verifier);
    verifier.has_keys().wait_for(|has| *has).await.unwrap();
    assert!(verifier.check(&signed(&signer, "k"), soon()).await.is_ok());
}

/// Somebody who stands between the connector and the issuer, or has its name, could otherwise hand out keys and let anybody in.
#[tokio::test]
async fn keys_of_a_server_that_another_authority_has_certified_are_not_taken() {
    let (signer, authority, another) = (Signer::p256(), Authority::new(), Authority::new());
    let served = serve(vec![ok(&jwks(&[("k", &signer)]))]).await;
    let (address, _proxy) = another.terminate(served.address).await;
    let token = signed(&signer, "k");
    // The second one trusts the public authorities alone.
    for ca in [Some(authority.ca()), None] {
        let issuer = IssuerSettings {
            jwks_url: Some(format!("https://{address}/keys")),
            jwks_ca_file: ca,
            ..settings(&[Algorithm::ES256])
        };
        let verifier = Verifier::open(&[issuer], Duration::from_secs(30)).unwrap();
        let _keeping = keep(&verifier);
        testkit::wait::eventually("the server is refused", testkit::SOON, async || {
            let trouble = verifier.trouble();
            trouble.is_some_and(|it| {
                it.contains("invalid peer certificate") && it.contains("jwks_ca_file")
            })
        })
        .await;
        assert!(!*verifier.has_keys().borrow());
        let refused = verifier.verify(&token, SystemTime::now());
        assert_eq!(refused, Err(Rejected::NoKeys));
        assert_eq!(served.requests(), 0, "nothing was asked");
    }
}

/// A server that has lost its certificate must not take away the keys that it gave before.
#[tokio::test]
async fn keys_stay_in_use_when_the_certificate_of_their_server_is_not_trusted_any_more() {
    let (signer, authority) = (Signer::p256(), Authority::new());
    let served = serve(vec![ok(&jwks(&[("k", &signer)]))]).await;
    let (address, _proxy) = authority.terminate(served.address).await;
    let issuer = IssuerSettings {
        jwks_url: Some(format!("https://{address}/keys")),
        jwks_ca_file: Some(authority.ca()),
        ..settings(&[Algorithm::ES256])
    };
    let verifier = Verifier::open(&[issuer], Duration::from_secs(30)).unwrap();
    let _keeping = keep(&verifier);
    verifier.has_keys().wait_for(|has| *has).await.unwrap();
    std::fs::copy(Authority::new().ca(), authority.ca()).unwrap();
    tokio::time::pause();
    advance(Duration::from_secs(16 * 60)).await;
    tokio::time::resume();
    testkit::wait::eventually("the server is refused", testkit::SOON, async || {
        let trouble = verifier.trouble();
        trouble.is_some_and(|it| it.contains("invalid peer certificate"))
    })
    .await;
    assert!(verifier.check(&signed(&signer, "k"), soon()).await.is_ok());
    assert_eq!(served.requests(), 1);
}

#[tokio::test]
async fn the_log_says_whether_there_are_older_keys_when_none_can_be_fetched() {
    let logged = Logged::at(tracing::Level::ERROR);
    let signer = Signer::p256();
    let away = || "HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n".to_owned();
    let keys = ok(&jwks(&[("k", &signer)]));
    let served = serve(vec![away(), keys, away()]).await;
    let verifier = served.verifier();
    let _keeping = keep(&verifier);
    verifier.has_keys().wait_for(|has| *has).await.unwrap();
    assert_eq!(
        logged.messages(),
        ["no keys of an issuer yet, so its tokens are refused"]
    );
    tokio::time::pause();
    advance(Duration::from_secs(16 * 60)).await;
    tokio::time::resume();
    testkit::wait::eventually("the keys are away", testkit::SOON, async || {
        verifier.trouble().is_some()
    })
    .await;
    let said = "no new keys of an issuer; those before are still used";
    assert_eq!(logged.messages()[1..], [said]);
}

#[tokio::test]
async fn many_tokens_with_unknown_keys_cause_one_fetch() {
    let signer = Signer::p256();
    let served = serve(vec![ok(&jwks(&[("k", &signer)]))]).await;
    let verifier = served.verifier();
    let _keeping = keep(&verifier);
    verifier.has_keys().wait_for(|has| *has).await.unwrap();
    tokio::time::pause();
    advance(Duration::from_secs(30)).await;
    tokio::time::resume();
    let token = signed(&signer, "unknown");
    let checks = (0..100).map(|_| verifier.check(&token, soon()));
    for refused in futures_util::future::join_all(checks).await {
        assert_eq!(refused, Err(Rejected::UnknownKey));
    }
    assert_eq!(served.requests(), 2);
}

#[tokio::test]
async fn keys_serve_for_a_day_while_their_source_is_away_and_no_longer() {
    let signer = Signer::p256();
    let away = "HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n".to_owned();
    let served = serve(vec![ok(&jwks(&[("k", &signer)])), away]).await;
    let verifier = served.verifier();
    let _keeping = keep(&verifier);
    let mut has_keys = verifier.has_keys();
    has_keys.wait_for(|has| *has).await.unwrap();
    // Everything that is judged by the clock of the test. The token is judged by that of the machine.
    let hours = async |hours: u64| {
        tokio::time::pause();
        advance(Duration::from_secs(hours * 3_600)).await;
        tokio::time::resume();
        let before = served.requests();
        testkit::wait::eventually("fetched again", testkit::SOON, async || {
            served.requests() > before && verifier.trouble().is_some()
        })
        .await;
    };
    hours(23).await;
    assert!(
        verifier.trouble().unwrap().contains("503"),
        "{:?}",
        verifier.trouble()
    );
    assert!(verifier.check(&signed(&signer, "k"), soon()).await.is_ok());
    hours(2).await;
    testkit::wait::eventually("the keys end", testkit::SOON, async || !*has_keys.borrow()).await;
    let refused = verifier.verify(&signed(&signer, "k"), SystemTime::now());
    let refused = refused.unwrap_err();
    assert_eq!(refused, Rejected::NoKeys);
    assert_eq!(
        refused.reason(),
        Reason::Unavailable,
        "it may be tried again"
    );
    // They come back with their source.
    *served.answers.lock() = VecDeque::from([ok(&jwks(&[("k", &signer)]))]);
    has_keys.wait_for(|has| *has).await.unwrap();
    assert!(verifier.check(&signed(&signer, "k"), soon()).await.is_ok());
}

#[tokio::test]
async fn answers_that_are_too_long_or_lead_elsewhere_are_not_taken() {
    let signer = Signer::p256();
    let keys = jwks(&[("k", &signer)]);
    let long = format!("{keys}{}", " ".repeat(300 << 10));
    let elsewhere =
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for (answer, words) in [
        (ok(&long), "longer than 256 KiB"),
        (elsewhere.to_owned(), "redirections are not followed"),
        (ok("{}"), "not a set of JSON web keys"),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "does not speak HTTP"),
    ] {
        let served = serve(vec![answer]).await;
        let verifier = served.verifier();
        let _keeping = keep(&verifier);
        testkit::wait::eventually(words, testkit::SOON, async || {
            verifier.trouble().is_some_and(|it| it.contains(words))
        })
        .await;
        assert!(!*verifier.has_keys().borrow());
    }
}

#[tokio::test(start_paused = true)]
async fn files_are_read_again_when_they_change_and_a_broken_one_changes_nothing() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "jwks.json", jwks(&[("1", &one)]).as_bytes());
    let issuer = IssuerSettings {
        jwks_file: Some(path.clone()),
        ..settings(&[Algorithm::ES256])
    };
    let verifier = Verifier::open(&[issuer], Duration::ZERO).unwrap();
    let _keeping = keep(&verifier);
    let is_known = |signer, key| {
        let token = signed(signer, key);
        verifier.verify(&token, SystemTime::now()).is_ok()
    };
    assert!(is_known(&one, "1") && !is_known(&two, "2"));
    std::fs::write(&path, jwks(&[("2", &two)])).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!is_known(&one, "1") && is_known(&two, "2"));
    std::fs::write(&path, "{").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(is_known(&two, "2"));
    assert!(verifier.trouble().unwrap().contains("not a set"));
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(is_known(&two, "2"));
    assert!(verifier.trouble().unwrap().contains("cannot read"));
    std::fs::write(&path, jwks(&[("1", &one)])).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(is_known(&one, "1"));
    assert_eq!(verifier.trouble(), None);
}
