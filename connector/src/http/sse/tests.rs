use super::*;
use tokio::net::{TcpListener, TcpStream};

#[test]
fn the_id_of_a_session_names_the_connector_that_holds_it() {
    let random = "x".repeat(20);
    for name in ["connector-1", "a b/c", "哈", "~", "a%2Fb"] {
        let written = utf8_percent_encode(name, PLAIN);
        let id = format!("{random}~{written}");
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.~%".contains(&it);
        assert!(id.bytes().all(plain), "{id}");
        assert_eq!(holder(&id).as_deref(), Some(name));
    }
    for other in [
        "",
        "x",
        "~connector-1",
        &random,
        &format!("{random}~"),
        &format!("{random}~%FF"),
    ] {
        assert_eq!(holder(other), None, "{other}");
    }
}

#[test]
fn only_its_own_paths_lead_here() {
    for path in ["/sse", "/sse/", "/sse/abc"] {
        assert!(is_path(path), "{path}");
    }
    for path in ["/", "/sses", "/ssex/abc", "/ws", "/x/sse"] {
        assert!(!is_path(path), "{path}");
    }
    assert_eq!(session("/sse/abc"), Some("abc"));
    assert_eq!(session("/sse"), None);
}

#[test]
fn the_head_of_a_stream_lets_only_the_page_read_it_that_asked() {
    let origin = From::Allowed(HeaderValue::from_static("https://app.example"));
    let head = String::from_utf8(head(&with_origin(&origin), b"first")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    for line in [
        "content-type: text/event-stream",
        "cache-control: no-store, no-transform",
        "x-accel-buffering: no",
        "connection: close",
        "vary: origin",
        "access-control-allow-origin: https://app.example",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}");
    }
    assert!(head.ends_with("\r\n\r\nfirst"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_confirms_nothing_for_two_heartbeats_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let socket = Socket::from(accepted.unwrap().0);
    let silence = Duration::from_secs(50);
    give_up_after(&socket, silence);
    let set = SockRef::from(socket.tcp()).tcp_user_timeout().unwrap();
    assert_eq!(set, Some(silence));
}
