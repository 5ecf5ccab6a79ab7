//! What a line of the log is about, beside its own fields: the process, the session and its request, and the trace.
//!
//! The code that logs need not know them. A task says once what it works on, and every line that it logs meanwhile has it.

use super::form::Form;
use super::values::shown;
use std::sync::{Arc, OnceLock};
use tokio::task_local;

/// The kind of this process, and its name.
static PROCESS: OnceLock<(&'static str, String)> = OnceLock::new();

task_local! {
    static CURRENT: Arc<About>;
}

/// What a task works on.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The session of a client.
    pub session: Option<String>,
    /// The number that the client has given to its request.
    pub request: Option<u64>,
}

/// From now on every line names the process: `kind` is the key, such as connector. Only the first call counts.
pub fn name_process(kind: &'static str, name: &str) {
    let _ = PROCESS.set((kind, name.to_owned()));
}

/// Lets a future work on something: every line that it logs says so. Tasks that it spawns do not belong to it.
pub fn about<F: Future>(about: About, future: F) -> impl Future<Output = F::Output> {
    // Boxed, because what takes that long is rare and large.
    CURRENT.scope(Arc::new(about), Box::pin(future))
}

/// Adds what the running task works on to a line, which has no newline at its end. A field that the line has already stays as it is.
pub(super) fn add_to(line: &mut String, form: Form) {
    let is_json = form == Form::Json;
    if is_json && line.pop() != Some('}') {
        return;
    }
    let mut add = |key: &str, value: &str| {
        let (is_there, field) = if is_json {
            let key = format!("\"{key}\":");
            (line.contains(&key), format!(",{key}{value}"))
        } else {
            let key = format!(" {key}=");
            (line.contains(&key), format!("{key}{value}"))
        };
        if !is_there {
            line.push_str(&field);
        }
    };
    let text = |text: &str| {
        if is_json {
            serde_json::Value::from(text).to_string()
        } else {
            shown(text.to_owned())
        }
    };
    if let Some((kind, name)) = PROCESS.get() {
        add(kind, &text(name));
    }
    if let Ok(about) = CURRENT.try_with(Arc::clone) {
        if let Some(session) = &about.session {
            add("session", &text(session));
        }
        if let Some(request) = about.request {
            add("request", &request.to_string());
        }
    }
    if let Some(span) = traces::current() {
        add("trace_id", &text(&span.context().trace_text()));
    }
    if is_json {
        line.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::yield_now;

    const TEXT: Form = Form::Text { colours: false };

    fn added(line: &str, form: Form) -> String {
        let mut line = line.to_owned();
        add_to(&mut line, form);
        line
    }

    #[tokio::test]
    async fn a_line_says_which_session_and_request_it_is_about() {
        assert_eq!(added("INFO a", TEXT), "INFO a");
        assert_eq!(added("{\"a\":1}", Form::Json), "{\"a\":1}");
        let of = |session: &str| About {
            session: Some(session.to_owned()),
            request: Some(7),
        };
        let working = async {
            assert_eq!(added("INFO a", TEXT), "INFO a session=s-1 request=7");
            yield_now().await;
            let json = added("{\"a\":1}", Form::Json);
            assert_eq!(json, "{\"a\":1,\"session\":\"s-1\",\"request\":7}");
            about(of("s \"2"), async {
                assert_eq!(added("a", TEXT), "a session=\"s \\\"2\" request=7");
                let json = added("{}", Form::Json);
                assert!(json.contains(",\"session\":\"s \\\"2\""), "{json}");
            })
            .await;
            // The line's own field counts.
            assert_eq!(added("a session=x", TEXT), "a session=x request=7");
            let json = added("{\"session\":\"x\"}", Form::Json);
            assert_eq!(json, "{\"session\":\"x\",\"request\":7}");
            // A value from outside that looks like one is none.
            let json = added("{\"a\":\"\\\"session\\\":\"}", Form::Json);
            assert!(json.contains("\"session\":\"s-1\""), "{json}");
            let spawned = tokio::spawn(async { added("a", TEXT) });
            assert_eq!(spawned.await.unwrap(), "a");
        };
        about(of("s-1"), working).await;
        assert_eq!(added("INFO a", TEXT), "INFO a");
    }

    #[tokio::test]
    async fn a_line_of_a_traced_request_names_its_trace() {
        traces::begin(0.0);
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = traces::Parent::parse(text);
        let span = traces::Span::of_request(parent, "test", traces::Kind::Server).unwrap();
        traces::within(span, async {
            let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
            assert_eq!(added("a", TEXT), format!("a trace_id={trace}"));
            let json = added("{\"a\":1}", Form::Json);
            assert_eq!(json, format!("{{\"a\":1,\"trace_id\":\"{trace}\"}}"));
        })
        .await;
        assert_eq!(added("a", TEXT), "a");
    }
}
