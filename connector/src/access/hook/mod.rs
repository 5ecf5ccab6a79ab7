//! The operator's hook: a gRPC service (`proto/access/v1/access_hook.proto`) that decides who may log in, and what sessions may
//! do in channels whose rules say "hook".
//!
//! Only a no of the hook is a no. If nobody can be asked, nobody gets in, but nobody who is in is thrown out. A decision may be
//! asked for twice, because asking changes nothing.

mod answers;
mod error;
mod settings;
#[cfg(test)]
mod tests;

use answers::Decided;
pub(crate) use error::HookError;
pub use error::HookSettingsError;
pub use settings::HookSettings;

use super::claims::{Claims, seconds_since_1970};
use super::rights::Rights;
use crate::dial::ALPN;
use crate::grpc::{self, GrpcService};
use crate::metering::OperatorCall;
use crate::operator::{Failure, Service, keep_resolving, within, words};
use bytes::Bytes;
use channel_store::ChannelName;
use http::Uri;
use parking_lot::Mutex;
use prost::Message;
use proto::access::v1::access_hook_client::AccessHookClient;
use proto::access::v1::{
    AuthorizeChannelsRequest, AuthorizeSendRequest, ChannelQuestion, LoginRequest, RefreshRequest,
};
use runtime::backoff::jittered;
use runtime::tls::{Called, ClientFiles, ClientTls};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};

/// For the log.
const OUTAGE: &str = "nobody gets in whom it would have to let in, until it is back";
/// The most bytes of an answer that has no message.
const LARGEST: usize = 256 << 10;
/// The fields around the JSON of a message take fewer bytes than this.
const AROUND_JSON: usize = 32;
/// The most channels in one question.
pub(crate) const CHANNELS: usize = 100;
/// The mean pause before a call is made once more.
const AGAIN: Duration = Duration::from_millis(100);
/// The mean time between two looks whether the hook answers: while it does, while it does not, and before it ever did.
const LOOK: Duration = Duration::from_secs(5);
const LOOK_AWAY: Duration = Duration::from_secs(1);
const LOOK_FIRST: Duration = Duration::from_millis(100);

/// The operator's hook.
pub(crate) struct Hook {
    service: Arc<Service>,
    uri: Uri,
    /// For an address that asks for TLS.
    files: Option<ClientFiles>,
    timeout: Duration,
    /// The most bytes of a message.
    message: usize,
    /// It decides about logins, too.
    decides_logins: bool,
    /// Half of the calls that may be under way: those that no client waits for.
    unhurried: Semaphore,
    is_ready: watch::Sender<bool>,
    trouble: Mutex<Option<String>>,
}

impl Hook {
    /// Reads the settings. `None`: there is no hook. `message` is the most bytes of a message. Nobody is asked before
    /// [`keep`](Self::keep) runs.
    pub(super) fn open(
        settings: &HookSettings,
        decides_logins: bool,
        message: usize,
    ) -> Result<Option<Arc<Self>>, HookSettingsError> {
        let Some(target) = &settings.target else {
            return match decides_logins {
                true => Err(HookSettingsError::NoTarget),
                false => Ok(None),
            };
        };
        let uri = grpc::uri(target)?;
        let files = settings.files(&uri)?;
        if let Some(files) = &files {
            files.check()?;
        }
        let service = Service::new(&uri, settings.in_flight as usize, OUTAGE);
        let hook = Self {
            files,
            ..Self::of(service, uri, settings, decides_logins, message)
        };
        Ok(Some(Arc::new(hook)))
    }

    fn of(
        service: Arc<Service>,
        uri: Uri,
        settings: &HookSettings,
        decides_logins: bool,
        message: usize,
    ) -> Self {
        Self {
            service,
            files: None,
            uri,
            timeout: settings.timeout,
            message,
            decides_logins,
            unhurried: Semaphore::new((settings.in_flight as usize / 2).max(1)),
            is_ready: watch::Sender::new(!decides_logins),
            trouble: Mutex::new(Some("it was not asked yet".to_owned())),
        }
    }

    /// Resolves its name, and looks whether it answers, again and again.
    pub(super) async fn keep(&self) -> Infallible {
        if let Some(files) = &self.files {
            match ClientTls::begin_to(Called::Hook, files.clone(), ALPN) {
                Ok(tls) => self.service.trust(tls),
                // They were checked a moment ago. Without them there is no connection, and `/readyz` says so.
                Err(error) => tracing::error!(%error, "the hook can't be called over TLS"),
            }
        }
        let resolving = keep_resolving(Arc::downgrade(&self.service), self.uri.clone());
        let looking = async {
            let mut pause = LOOK_FIRST;
            loop {
                pause = match self.look().await {
                    Ok(()) => LOOK,
                    Err(_) if pause == LOOK_FIRST => LOOK_FIRST,
                    Err(_) => LOOK_AWAY,
                };
                sleep(jittered(pause)).await;
            }
        };
        tokio::select! {
            () = resolving => {}
            never = looking => return never,
        }
        std::future::pending().await
    }

    /// Asks nothing, only to see whether the hook answers.
    async fn look(&self) -> Result<(), String> {
        let nothing = AuthorizeChannelsRequest::default();
        let asked = self.ask_about_channels("look", &nothing, Instant::now() + self.timeout);
        let looked = match asked.await {
            // Whatever it says, it is there.
            Err(Failure::Status(status)) if !is_passing(&status) => Ok(()),
            Err(failure) => Err(failure.to_string()),
            Ok(_) => Ok(()),
        };
        let trouble = looked.as_ref().err();
        let trouble = trouble.map(|why| format!("{}: {why}", self.service.name()));
        *self.trouble.lock() = trouble;
        let is_ready = looked.is_ok() || !self.decides_logins;
        self.is_ready.send_if_modified(|before| {
            let has_changed = *before != is_ready;
            *before = is_ready;
            has_changed
        });
        looked
    }

    /// False while nobody can log in because the hook does not answer.
    pub(crate) fn is_ready(&self) -> watch::Receiver<bool> {
        self.is_ready.subscribe()
    }

    /// Why the hook does not answer, if it does not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// The turn of a question that no client waits for. While the hook hangs, such questions leave room for the others.
    pub(crate) async fn unhurried(&self) -> Option<SemaphorePermit<'_>> {
        self.unhurried.acquire().await.ok()
    }

    /// Asks whether a client may log in. `Claims` has what the session begins with.
    pub(crate) async fn login(
        &self,
        request: LoginRequest,
        deadline: Instant,
    ) -> Result<Claims, HookError> {
        let answer = self.ask(
            "login",
            request.encoded_len(),
            deadline,
            |mut hook, until| {
                let request = within(request.clone(), until);
                async move { hook.login(request).await }
            },
        );
        let outcome = answer
            .await
            .map_err(|failure| self.failed("login", failure))?;
        let claims = answers::claims(outcome.outcome, seconds_since_1970(SystemTime::now()));
        claims.map_err(|why| self.unusable("login", why))?
    }

    /// Asks whether a session may go on, because its client has shown another token.
    pub(crate) async fn refresh(
        &self,
        request: RefreshRequest,
        deadline: Instant,
    ) -> Result<Claims, HookError> {
        let bytes = request.encoded_len();
        let answer = self.ask("refresh", bytes, deadline, |mut hook, until| {
            let request = within(request.clone(), until);
            async move { hook.refresh(request).await }
        });
        let outcome = answer
            .await
            .map_err(|failure| self.failed("refresh", failure))?;
        let claims = answers::claims(outcome.outcome, seconds_since_1970(SystemTime::now()));
        claims.map_err(|why| self.unusable("refresh", why))?
    }

    /// Asks what a session may do in at most [`CHANNELS`] channels. Of each channel it asks about these rights.
    pub(crate) async fn channels(
        &self,
        request: AuthorizeChannelsRequest,
        channels: &[(ChannelName, Rights)],
        deadline: Instant,
    ) -> Result<Decided, HookError> {
        let questions = channels.iter().map(|(channel, rights)| ChannelQuestion {
            channel: channel.to_string(),
            rights: answers::named(*rights),
        });
        let request = AuthorizeChannelsRequest {
            channels: questions.collect(),
            ..request
        };
        let answer = self.ask_about_channels("channels", &request, deadline);
        let answer = answer
            .await
            .map_err(|failure| self.failed("channels", failure))?;
        answers::decided(answer).map_err(|why| self.unusable("channels", why))
    }

    /// Asks whether a message may be sent. The answer is what is sent instead; `None`: the message itself.
    pub(crate) async fn send(
        &self,
        request: AuthorizeSendRequest,
        deadline: Instant,
    ) -> Result<Option<Bytes>, HookError> {
        let limit = self.message;
        let answer = self.ask("send", request.encoded_len(), deadline, |hook, until| {
            let request = within(request.clone(), until);
            let mut hook = hook.max_decoding_message_size(limit + AROUND_JSON);
            async move { hook.authorize_send(request).await }
        });
        let answer = answer
            .await
            .map_err(|failure| self.failed("send", failure))?;
        let sent = answers::sent(answer, limit);
        sent.map_err(|why| self.unusable("send", why.to_string()))?
    }

    async fn ask_about_channels(
        &self,
        call: &'static str,
        request: &AuthorizeChannelsRequest,
        deadline: Instant,
    ) -> Result<proto::access::v1::AuthorizeChannelsResponse, Failure> {
        let bytes = request.encoded_len();
        let answer = self.ask(call, bytes, deadline, |mut hook, until| {
            let request = within(request.clone(), until);
            async move { hook.authorize_channels(request).await }
        });
        answer.await
    }

    /// Makes a call, and makes it once more if it has no answer for a reason that may be over in a moment.
    async fn ask<T, F>(
        &self,
        call: &'static str,
        bytes: usize,
        deadline: Instant,
        ask: impl Fn(AccessHookClient<GrpcService>, Instant) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::Late);
        }
        let deadline = deadline.min(now + self.timeout);
        let mut measured = OperatorCall::of_hook(call);
        let once = || {
            let asked = |service| {
                let hook = AccessHookClient::new(service);
                ask(hook.max_decoding_message_size(LARGEST), deadline)
            };
            self.service.call(bytes, deadline, asked)
        };
        let mut answer = once().await;
        if answer.as_ref().is_err_and(may_pass) {
            let pause = jittered(AGAIN);
            if Instant::now() + pause < deadline {
                sleep(pause).await;
                answer = once().await;
            }
        }
        measured.outcome = match &answer {
            Ok(_) => "answered",
            Err(Failure::Overloaded) => "overloaded",
            Err(Failure::Unreachable(_)) => "unavailable",
            Err(Failure::Late) => "unanswered",
            Err(Failure::Status(status)) if grpc::is_of_the_network(status) => "unanswered",
            Err(Failure::Status(_)) => "failed",
        };
        answer
    }

    /// Logs why a call has no answer.
    fn failed(&self, call: &'static str, failure: Failure) -> HookError {
        let hook = self.service.name();
        let error = match failure {
            Failure::Overloaded => HookError::Overloaded,
            Failure::Status(status) => {
                let words = words(&status);
                HookError::Failed(format!("{:?}: {words}", status.code()))
            }
            // The outage itself is logged once, when an attempt to connect fails.
            Failure::Unreachable(why) => {
                tracing::debug!(hook, call, why, "the hook is not asked");
                return HookError::Failed(why);
            }
            Failure::Late => HookError::Failed(failure.to_string()),
        };
        tracing::warn!(hook, call, %error, "the hook gives no decision");
        error
    }

    /// Logs why an answer can't be used. That is a fault of the hook, so the client may try again.
    fn unusable(&self, call: &'static str, why: String) -> HookError {
        let hook = self.service.name();
        tracing::error!(hook, call, why, "the answer of the hook can't be used");
        HookError::Failed(why)
    }
}

/// True if the same call may have an answer a moment later.
fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable(_) => true,
        Failure::Status(status) => is_passing(status),
        Failure::Overloaded | Failure::Late => false,
    }
}

/// True if the connection was lost, or if the hook says that it is not available.
fn is_passing(status: &Status) -> bool {
    grpc::is_of_the_network(status) || status.code() == Code::Unavailable
}

#[cfg(test)]
impl Hook {
    /// A hook in this process.
    pub(crate) fn in_process(
        service: Arc<Service>,
        settings: &HookSettings,
        decides_logins: bool,
        message: usize,
    ) -> Arc<Self> {
        let uri = Uri::from_static("http://access");
        Arc::new(Self::of(service, uri, settings, decides_logins, message))
    }
}
