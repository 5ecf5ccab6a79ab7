//! Real client libraries, with their own settings, reconnect by themselves when their connector goes away.
//!
//! `tests/clients/reconnecting.js` and `reconnecting.py` have one client of each library, and no code that reconnects.
//! All of them reach the system by one address, behind which another connector takes over.

use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use testkit::pomelo::{Client, SENT};
use testkit::process::Process;
use testkit::relay::Relay;
use testkit::system::{Plan, System};
use testkit::{SOON, wait, workspace};

/// These connect again by themselves after every end but their own `disconnect()`.
const COME_BACK: [&str; 13] = [
    "pomelo-jsclient-websocket with reconnect",
    "socket.io-client-1 by websocket",
    "socket.io-client-1 by polling",
    "socket.io-client-1 by polling then websocket",
    "socket.io-client-2 by websocket",
    "socket.io-client-2 by polling",
    "socket.io-client-2 by polling then websocket",
    "socket.io-client-4 by websocket",
    "socket.io-client-4 by polling",
    "socket.io-client-4 by polling then websocket",
    "python-socketio by websocket",
    "python-socketio by polling",
    "python-socketio by polling then websocket",
];
/// These never do. They tell the application by this event, with the code of the close frame.
const LEAVE_IT_TO_THE_APPLICATION: [(&str, &str); 2] = [
    ("pomelo-nodejsclient-websocket", "close"),
    ("pomelo-jsclient-websocket", "disconnect"),
];

/// Longer than the longest pause of a library before it connects again, which is 5 s, on a busy machine.
const COME_BACK_WITHIN: Duration = Duration::from_secs(40);

/// All clients, in the room on the first of two connectors, and a listener on the second.
struct Clients {
    programs: [Process; 2],
    relay: Relay,
    listener: Client,
    // Last, so that it is dropped last.
    system: System,
}

/// Parses a line of a client's program: the client's name, an event, and its details.
fn event(line: &str) -> Option<(String, String, Value)> {
    serde_json::from_str(line).ok()
}

impl Clients {
    async fn start() -> Self {
        // Users of a killed connector stay logged in until its lease ends. With `kick-old` they need not wait for that.
        let flags = ["--heartbeat", "3s", "--socketio-heartbeat", "3s"];
        let system = Plan::of(2, 1)
            .connector_flags(&flags)
            .connector_flags(&["--socketio-timeout", "3s"])
            .login_policy("kick-old")
            .start()
            .await;
        let relay = Relay::to(system.connectors[0].address()).await;
        let listener = system.member(1, "listener", "room").await;
        let address = relay.address().to_string();
        let programs = [
            (testkit::python(), "reconnecting.py"),
            ("node".into(), "reconnecting.js"),
        ];
        let programs = programs.map(|(program, file)| {
            let mut command = Command::new(program);
            command.args([file, &address, "room"]);
            command.current_dir(workspace().join("tests/clients"));
            Process::spawn(file, &mut command)
        });
        let clients = Self {
            programs,
            relay,
            listener,
            system,
        };
        let others = LEAVE_IT_TO_THE_APPLICATION.map(|(name, _)| name);
        clients.until_sent(&others, 1).await;
        clients.until_sent(&COME_BACK, 1).await;
        clients
            .relay
            .redirect_to(clients.system.connectors[1].address());
        clients
    }

    /// What a client's library has told it so far.
    fn told(&self, name: &str) -> Vec<(String, Value)> {
        let lines = self.programs.iter().flat_map(Process::lines);
        let events = lines.filter_map(|line| event(&line));
        let its_own = events.filter(|(whose, ..)| whose == name);
        its_own.map(|(_, event, what)| (event, what)).collect()
    }

    /// Waits until each of these clients has sent something in the connection with this number, or in a later one.
    async fn until_sent(&self, names: &[&str], number: u64) {
        for name in names {
            let said = wait::within(COME_BACK_WITHIN, async || {
                let told = self.told(name);
                let connected = told.iter().rposition(|(event, what)| {
                    event == "connected" && what.as_u64().is_some_and(|it| it >= number)
                })?;
                let sent = ("sent".to_owned(), 0.into());
                told[connected..].contains(&sent).then_some(())
            });
            let said = said.await;
            assert!(
                said.is_some(),
                "{name} sends nothing in its connection {number}: {:?}",
                self.told(name)
            );
        }
    }

    /// Checks that libraries that reconnect do so, send and receive, and that the others have told one of these codes.
    async fn come_back(&self, codes: &[u64]) {
        self.until_sent(&COME_BACK, 2).await;
        assert_eq!(self.listener.say("welcome back").await, SENT);
        for name in COME_BACK {
            let what = format!("{name} receives messages");
            wait::eventually(&what, SOON, async || {
                let told = self.told(name);
                told.contains(&("heard".to_owned(), "welcome back".into()))
            })
            .await;
            let told = self.told(name);
            assert!(told.iter().all(|(event, _)| event != "kicked"), "{told:?}");
        }
        for (name, event) in LEAVE_IT_TO_THE_APPLICATION {
            let what = format!("{name} tells its application by {event}");
            let code = wait::some(&what, SOON, async || {
                let mut told = self.told(name).into_iter();
                told.find_map(|(it, what)| (it == event).then_some(what))
            });
            let code = code.await;
            assert!(codes.iter().any(|it| code == *it), "{name}: {code}");
            let told = self.told(name);
            assert!(told.iter().all(|(event, _)| event != "kicked"), "{told:?}");
            let connections = told.iter().filter(|(event, _)| event == "connected");
            assert_eq!(connections.count(), 1, "{told:?}");
        }
    }
}

#[tokio::test]
async fn libraries_reconnect_after_their_connector_stops() {
    let mut clients = Clients::start().await;
    clients.system.connectors[0].terminate();
    let end = clients.system.connectors[0].ended_within(Duration::from_secs(10));
    assert!(end.await.success());
    clients.come_back(&[1001]).await;
}

#[tokio::test]
async fn libraries_reconnect_after_their_connector_is_killed() {
    let mut clients = Clients::start().await;
    clients.system.connectors[0].kill();
    // The library for Node.js reports a broken connection as one that was closed with 1000.
    clients.come_back(&[1006, 1000]).await;
}

/// A phone freezes an application in the background. Its connection is closed for silence, and later it goes on.
#[tokio::test]
async fn libraries_reconnect_after_they_were_silent_for_too_long() {
    let clients = Clients::start().await;
    clients.programs.iter().for_each(Process::freeze);
    wait::eventually("silent clients end", COME_BACK_WITHIN, async || {
        clients.system.connectors[0].connections().await == 0
    })
    .await;
    clients.programs.iter().for_each(Process::thaw);
    // As recorded (K5).
    clients.come_back(&[1000]).await;
}
