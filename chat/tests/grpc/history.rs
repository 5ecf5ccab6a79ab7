//! History page by page, over the store in memory.

use crate::support::{fields, message};
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{ChannelStore, StoreOptions};
use chat::Limits;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::publication::Content;
use proto::chat::v1::{
    Continuity, HistoryRequest, HistoryResponse, Position, Publication, SendRequest,
};
use runtime::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::Channel;

struct Subject {
    store: Arc<MemoryStore>,
    client: ChatServiceClient<Channel>,
}

impl Subject {
    async fn start(options: StoreOptions) -> Self {
        Self::limited(options, Limits::default()).await
    }

    async fn limited(options: StoreOptions, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let store = MemoryStore::new(options);
        let service = Arc::clone(&store) as Arc<dyn ChannelStore>;
        tokio::spawn(chat::serve(
            listener,
            service,
            Arc::default(),
            Arc::default(),
            Arc::default(),
            limits,
            Shutdown::new(),
        ));
        let client = ChatServiceClient::connect(address).await.unwrap();
        Self { store, client }
    }

    /// A chat whose channel has this many messages.
    async fn with(messages: u64) -> Self {
        let mut subject = Self::start(StoreOptions::default()).await;
        for n in 1..=messages {
            subject.send(&format!("{{\"n\":{n}}}")).await;
        }
        subject
    }

    async fn send(&mut self, json: &str) -> Position {
        let sent = self.client.send(message(json)).await.unwrap();
        sent.into_inner().position.unwrap()
    }

    async fn page(&mut self, request: HistoryRequest) -> HistoryResponse {
        self.client.history(request).await.unwrap().into_inner()
    }

    /// All pages of a request. Each must begin where the one before it ended.
    async fn pages(&mut self, mut request: HistoryRequest) -> Vec<HistoryResponse> {
        let mut pages = Vec::new();
        loop {
            let page = self.page(request.clone()).await;
            assert_eq!(page.continuity(), Continuity::Contiguous);
            request.page_token.clone_from(&page.next_page_token);
            let is_last = page.next_page_token.is_empty();
            pages.push(page);
            if is_last {
                return pages;
            }
        }
    }
}

fn history() -> HistoryRequest {
    HistoryRequest {
        channel: "4".into(),
        ..HistoryRequest::default()
    }
}

fn newest_first() -> HistoryRequest {
    HistoryRequest {
        newest_first: true,
        ..history()
    }
}

fn offset(publication: &Publication) -> u64 {
    publication.position.as_ref().unwrap().offset
}

fn offsets(page: &HistoryResponse) -> Vec<u64> {
    page.publications.iter().map(offset).collect()
}

fn begins_at(page: &HistoryResponse) -> u64 {
    page.position.as_ref().unwrap().offset
}

fn body_json(publication: &Publication) -> &[u8] {
    match &publication.content {
        Some(Content::BodyJson(json)) => json,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_publication_comes_back_as_members_received_it() {
    let mut subject = Subject::with(0).await;
    let send = SendRequest {
        user: "5".into(),
        user_is_number: true,
        route: "onMove".into(),
        ..message("{\"x\": 1.0}")
    };
    let sent = subject.client.send(send).await.unwrap().into_inner();
    let page = subject.page(history()).await;
    let [publication] = &page.publications[..] else {
        panic!("{page:?}")
    };
    assert_eq!(publication.position, sent.position);
    assert_eq!(publication.publish_time, sent.publish_time);
    assert_eq!((&*publication.route, &*publication.user), ("onMove", "5"));
    assert_eq!(body_json(publication), b"{\"x\": 1.0,\"userId\":5}");
    assert_eq!(
        (page.continuity(), begins_at(&page)),
        (Continuity::Contiguous, 0)
    );
    assert_eq!(page.next_page_token, "");

    let nothing = HistoryRequest {
        channel: "nobody's".into(),
        ..history()
    };
    for newest_first in [false, true] {
        let request = HistoryRequest {
            newest_first,
            ..nothing.clone()
        };
        let page = subject.page(request).await;
        assert_eq!(page.continuity(), Continuity::Contiguous);
        assert_eq!(
            (page.publications.len(), page.next_page_token),
            (0, String::new())
        );
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_in_both_directions() {
    let mut subject = Subject::with(150).await;
    for (page_size, sizes) in [
        (0, &[100, 50][..]),
        (1, &[1; 150]),
        (40, &[40, 40, 40, 30]),
        (50, &[50; 3]),
        (1_000, &[150]),
        // This counts as 1,000.
        (1_001, &[150]),
    ] {
        for request in [history(), newest_first()] {
            let request = HistoryRequest {
                page_size,
                ..request
            };
            let pages = subject.pages(request.clone()).await;
            let found: Vec<usize> = pages.iter().map(|page| page.publications.len()).collect();
            assert_eq!(found, sizes);
            let mut all: Vec<u64> = pages.iter().flat_map(offsets).collect();
            if request.newest_first {
                all.reverse();
            }
            assert_eq!(all, (1..=150).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_reader_goes_on_after_a_position_or_scrolls_back_before_it() {
    let mut subject = Subject::with(50).await;
    let all = subject.page(history()).await.publications;
    let from = |offset: usize, newest_first| HistoryRequest {
        from: all[offset - 1].position.clone(),
        newest_first,
        page_size: 3,
        ..history()
    };
    for (request, expected) in [
        (from(7, false), vec![8, 9, 10]),
        (from(7, true), vec![6, 5, 4]),
        (from(49, false), vec![50]),
        (from(50, false), vec![]),
        (from(2, true), vec![1]),
        (from(1, true), vec![]),
    ] {
        let page = subject.page(request).await;
        assert_eq!(
            (page.continuity(), offsets(&page)),
            (Continuity::Contiguous, expected.clone())
        );
        assert_eq!(page.next_page_token.is_empty(), expected.len() < 3);
    }
}

#[tokio::test]
async fn a_page_ends_early_when_it_grows_large() {
    let mut subject = Subject::with(0).await;
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(100 * 1024));
    for _ in 0..25 {
        subject.send(&large).await;
    }
    for request in [history(), newest_first()] {
        for body_as_struct in [false, true] {
            let request = HistoryRequest {
                body_as_struct,
                page_size: 1_000,
                ..request.clone()
            };
            let pages = subject.pages(request).await;
            let expected = if body_as_struct { 2 } else { 10 };
            for page in &pages[..pages.len() - 1] {
                assert_eq!(page.publications.len(), expected);
            }
            let mut all: Vec<u64> = pages.iter().flat_map(offsets).collect();
            all.sort_unstable();
            assert_eq!(all, (1..=25).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_publication_that_is_larger_than_a_page_is_a_page_of_its_own() {
    let limits = Limits {
        message: 2 * 1024 * 1024,
        ..Limits::default()
    };
    let mut subject = Subject::limited(StoreOptions::default(), limits).await;
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(1024 * 1024));
    for json in ["{}", &large, &large, "{}"] {
        subject.send(json).await;
    }
    for request in [history(), newest_first()] {
        let pages = subject.pages(request).await;
        let found: Vec<usize> = pages.iter().map(|page| page.publications.len()).collect();
        assert_eq!(found, [1, 1, 1, 1]);
    }
}

#[tokio::test]
async fn publications_that_are_trimmed_between_two_pages_are_reported() {
    let options = StoreOptions {
        log_entries: 20,
        log_keep: Duration::ZERO,
        ..StoreOptions::default()
    };
    let mut subject = Subject::start(options).await;
    for _ in 0..20 {
        subject.send("{}").await;
    }
    let first = HistoryRequest {
        page_size: 5,
        ..history()
    };
    let last = HistoryRequest {
        page_size: 5,
        ..newest_first()
    };
    let (forwards, backwards) = (subject.page(first).await, subject.page(last).await);
    assert_eq!((offsets(&forwards)[4], offsets(&backwards)[4]), (5, 16));

    // Now 8 to 27 are held.
    for _ in 0..7 {
        subject.send("{}").await;
    }
    let after = |page: &HistoryResponse, request| HistoryRequest {
        page_token: page.next_page_token.clone(),
        ..request
    };
    let page = subject.page(after(&forwards, history())).await;
    assert_eq!(
        (page.continuity(), begins_at(&page)),
        (Continuity::Trimmed, 7)
    );
    assert_eq!(offsets(&page), (8..=27).collect::<Vec<_>>());
    let page = subject.page(after(&backwards, newest_first())).await;
    assert_eq!(page.continuity(), Continuity::Contiguous);
    assert_eq!(offsets(&page), (8..=15).rev().collect::<Vec<_>>());
    assert_eq!(page.next_page_token, "");

    for _ in 0..10 {
        subject.send("{}").await;
    }
    // The log holds nothing any more of what these requests ask for.
    for position in [&backwards.publications[4], &forwards.publications[4]] {
        let request = HistoryRequest {
            from: position.position.clone(),
            ..newest_first()
        };
        let page = subject.page(request).await;
        assert_eq!(
            (page.continuity(), offsets(&page)),
            (Continuity::Trimmed, vec![])
        );
        assert_eq!(page.next_page_token, "");
    }
}

#[tokio::test]
async fn a_loss_in_a_failover_is_reported_and_so_is_another_life_of_the_channel() {
    let mut subject = Subject::with(5).await;
    let replica = subject.store.snapshot();
    for _ in 6..=8 {
        subject.send("{}").await;
    }
    let seen = subject.page(history()).await.publications;
    subject.store.restart(Some(replica));
    for _ in 6..=7 {
        subject.send("{}").await;
    }
    let from = |offset: usize, newest_first| HistoryRequest {
        from: seen[offset - 1].position.clone(),
        newest_first,
        ..history()
    };
    let page = subject.page(from(8, false)).await;
    assert_eq!(
        (page.continuity(), begins_at(&page)),
        (Continuity::Diverged, 5)
    );
    assert_eq!(offsets(&page), [6, 7]);
    assert_ne!(page.publications[0], seen[5]);
    let page = subject.page(from(8, true)).await;
    assert_eq!(
        (page.continuity(), begins_at(&page)),
        (Continuity::Diverged, 5)
    );
    assert_eq!(
        page.publications,
        seen[..5].iter().rev().cloned().collect::<Vec<_>>()
    );
    // Everything before the first lost publication is as it was.
    let page = subject.page(from(6, true)).await;
    assert_eq!(
        (page.continuity(), offsets(&page)[0]),
        (Continuity::Contiguous, 5)
    );

    subject.store.restart(Some(Snapshot::default()));
    subject.send("{}").await;
    subject.send("{}").await;
    let page = subject.page(from(4, false)).await;
    assert_eq!(
        (page.continuity(), offsets(&page)),
        (Continuity::Unknown, vec![1, 2])
    );
    let page = subject.page(from(4, true)).await;
    assert_eq!(
        (page.continuity(), offsets(&page)),
        (Continuity::Unknown, vec![2, 1])
    );
    assert_eq!(begins_at(&page), 2);
}

#[tokio::test]
async fn bodies_come_as_structs_if_they_fit() {
    let mut subject = Subject::with(0).await;
    let deep = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    for json in [
        "{\"a\":[1.5,true,null,\"哈\"],\"b\":{\"c\":{}}}",
        &deep(25),
        &deep(26),
        // Half of a surrogate pair is stored as U+FFFD.
        "{\"a\":\"\\ud800\"}",
    ] {
        subject.send(json).await;
    }
    let request = HistoryRequest {
        body_as_struct: true,
        ..history()
    };
    let page = subject.page(request).await;
    let readable = |it: &Publication| matches!(it.content, Some(Content::Body(_)));
    let found: Vec<bool> = page.publications.iter().map(readable).collect();
    assert_eq!(found, [true, true, false, true]);
    let Some(Content::Body(body)) = page.publications[0].content.clone() else {
        panic!("{page:?}")
    };
    // If the body is sent as it came, it is the same message.
    let again = SendRequest {
        content: Some(proto::chat::v1::send_request::Content::Body(body)),
        ..message("{}")
    };
    subject.client.send(again).await.unwrap();
    let last = subject.page(newest_first()).await.publications.remove(0);
    assert_eq!(
        String::from_utf8_lossy(body_json(&last)),
        "{\"a\":[1.5,true,null,\"哈\"],\"b\":{\"c\":{}},\"userId\":\"nancy\"}"
    );
}

#[tokio::test]
async fn all_wrong_fields_of_a_request_are_named_at_once() {
    let mut subject = Subject::with(3).await;
    let position = |epoch: &str, offset| {
        Some(Position {
            epoch: epoch.into(),
            offset,
        })
    };
    let wrong = HistoryRequest {
        from: position("", 1),
        page_token: "nonsense".into(),
        ..HistoryRequest::default()
    };
    let status = subject.client.history(wrong).await.unwrap_err();
    assert_eq!(fields(&status), ["channel", "from.epoch", "page_token"]);
    let before_all = HistoryRequest {
        from: position("e", 0),
        ..newest_first()
    };
    let status = subject.client.history(before_all).await.unwrap_err();
    assert_eq!(fields(&status), ["from.offset"]);
    let long = HistoryRequest {
        from: position(&"e".repeat(65), 1),
        ..history()
    };
    let status = subject.client.history(long).await.unwrap_err();
    assert_eq!(fields(&status), ["from.epoch"]);
    for token in [
        "after:",
        "after:1",
        "after:1:",
        "after:x:e",
        "upto:-1:e",
        "before:1:e",
        "0",
        ":1:e",
    ] {
        let request = HistoryRequest {
            page_token: token.into(),
            ..history()
        };
        let status = subject.client.history(request).await.unwrap_err();
        assert_eq!(fields(&status), ["page_token"], "{token}");
    }
}

#[tokio::test]
async fn a_page_token_is_valid_only_for_the_request_that_it_was_made_for() {
    let mut subject = Subject::with(5).await;
    let few = HistoryRequest {
        page_size: 2,
        ..history()
    };
    let token = subject.page(few.clone()).await.next_page_token;
    let mut next = HistoryRequest {
        page_token: token.clone(),
        ..few.clone()
    };
    assert_eq!(offsets(&subject.page(next.clone()).await), [3, 4]);
    next.newest_first = true;
    let status = subject.client.history(next.clone()).await.unwrap_err();
    assert_eq!(fields(&status), ["page_token"]);
    next.newest_first = false;
    for channel in ["5", "4:", "1:4"] {
        next.channel = channel.into();
        let status = subject.client.history(next.clone()).await.unwrap_err();
        assert_eq!(fields(&status), ["page_token"], "{channel}");
    }
    next.channel = "4".into();
    next.from = Some(Position {
        epoch: "e".into(),
        offset: 1,
    });
    let status = subject.client.history(next.clone()).await.unwrap_err();
    assert_eq!(
        fields(&status),
        ["page_token"],
        "the request has another beginning"
    );
    next.from = None;
    next.body_as_struct = true;
    let status = subject.client.history(next.clone()).await.unwrap_err();
    assert_eq!(
        fields(&status),
        ["page_token"],
        "the request has another view"
    );
    // Pages may have other sizes.
    next.body_as_struct = false;
    next.page_size = 1;
    next.page_bytes = 10_000;
    assert_eq!(offsets(&subject.page(next).await), [3]);
    let backwards = HistoryRequest {
        page_size: 2,
        ..newest_first()
    };
    let token = subject.page(backwards.clone()).await.next_page_token;
    let mut next = HistoryRequest {
        page_token: token,
        ..backwards
    };
    assert_eq!(offsets(&subject.page(next.clone()).await), [3, 2]);
    next.newest_first = false;
    let status = subject.client.history(next).await.unwrap_err();
    assert_eq!(
        fields(&status),
        ["page_token"],
        "the request has the other direction"
    );
}

#[tokio::test]
async fn the_position_of_an_unknown_channel_can_be_used_to_begin_reading() {
    let mut subject = Subject::with(0).await;
    let nothing = subject.page(history()).await;
    let end = nothing.position.clone().unwrap();
    assert_eq!((&*end.epoch, end.offset), ("", 0));
    let unknown = HistoryRequest {
        from: Some(Position {
            epoch: "another".into(),
            offset: 3,
        }),
        ..history()
    };
    let page = subject.page(unknown).await;
    assert_eq!(page.continuity(), Continuity::Unknown);
    assert_eq!(page.position, Some(end.clone()));
    assert_eq!(page.next_page_token, "");
    for n in 1..=2 {
        subject.send(&format!("{{\"n\":{n}}}")).await;
    }
    let from_there = HistoryRequest {
        from: Some(end),
        ..history()
    };
    let page = subject.page(from_there).await;
    assert_eq!(page.continuity(), Continuity::Contiguous);
    assert_eq!(offsets(&page), [1, 2]);
}

#[tokio::test]
async fn a_page_has_at_most_the_requested_bytes_or_one_publication() {
    let mut subject = Subject::with(0).await;
    for size in [10_000, 10_000, 10_000, 60_000, 10] {
        let text = "x".repeat(size);
        subject.send(&format!("{{\"text\":\"{text}\"}}")).await;
    }
    let few = HistoryRequest {
        page_bytes: 25_000,
        ..history()
    };
    let pages = subject.pages(few).await;
    let pages: Vec<_> = pages.iter().map(offsets).collect();
    assert_eq!(pages, [vec![1, 2], vec![3], vec![4], vec![5]]);
    let all = HistoryRequest {
        page_bytes: u32::MAX,
        ..history()
    };
    assert_eq!(subject.pages(all).await.len(), 1);
}
