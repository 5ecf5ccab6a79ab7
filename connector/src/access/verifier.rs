//! Checks tokens.

use super::algorithm::Algorithm;
use super::claims::{Claims, Expected, seconds_since_1970};
use super::issuer_error::IssuerError;
use super::jws::Jws;
use super::keeper::{Keeper, Source};
use super::keys::Candidates;
use super::rejected::Rejected;
use super::settings::IssuerSettings;
use futures_util::future::join_all;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::Instant;

/// An issuer and its keys.
struct Issuer {
    name: String,
    audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    user_claim: String,
    keeper: Keeper,
}

/// Checks the tokens of the issuers that are configured.
pub struct Verifier {
    issuers: Vec<Issuer>,
    leeway: Duration,
    has_keys: watch::Sender<bool>,
}

impl Verifier {
    /// Reads the keys that are in files. Those that are served elsewhere are fetched by [`keep`](Self::keep).
    ///
    /// # Errors
    /// [`IssuerError`]; a token is checked by nobody then.
    pub fn open(issuers: &[IssuerSettings], leeway: Duration) -> Result<Arc<Self>, IssuerError> {
        if issuers.is_empty() {
            return Err(IssuerError::None);
        }
        for (at, one) in issuers.iter().enumerate() {
            check(one)?;
            if issuers[..at].iter().any(|it| it.issuer == one.issuer) {
                return Err(wrong(one, "is named twice"));
            }
        }
        let issuers = issuers.iter().map(|settings| {
            Ok(Issuer {
                name: settings.issuer.clone(),
                audience: settings.audience.clone(),
                algorithms: settings.algorithms.clone(),
                user_claim: settings.user_claim.clone(),
                keeper: Keeper::open(settings)?,
            })
        });
        let issuers = issuers.collect::<Result<Vec<_>, _>>()?;
        let this = Arc::new(Self {
            issuers,
            leeway,
            has_keys: watch::Sender::new(false),
        });
        this.look();
        Ok(this)
    }

    /// Keeps the keys fresh, until this is dropped.
    pub async fn keep(&self) -> Infallible {
        let keepers = self.issuers.iter();
        join_all(keepers.map(|issuer| issuer.keeper.keep(&issuer.name, || self.look()))).await;
        std::future::pending().await
    }

    /// Whether there is a key of any issuer. Without one nobody can log in.
    #[must_use]
    pub fn has_keys(&self) -> watch::Receiver<bool> {
        self.has_keys.subscribe()
    }

    /// Which issuers have no keys, and why.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let troubles = self.issuers.iter().filter_map(|issuer| {
            let trouble = issuer.keeper.trouble()?;
            Some(format!("issuer {}: {trouble}", issuer.name))
        });
        let troubles: Vec<_> = troubles.collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    fn look(&self) {
        let mut issuers = self.issuers.iter();
        let has_keys = issuers.any(|issuer| issuer.keeper.keys().is_some());
        self.has_keys.send_if_modified(|before| {
            let has_changed = *before != has_keys;
            *before = has_keys;
            has_changed
        });
    }

    /// How far the clocks of issuers and connectors may differ.
    #[must_use]
    pub fn leeway(&self) -> Duration {
        self.leeway
    }

    /// Checks a token. If it names a key that is not known, the issuer may have begun to use it just now. Then its keys are
    /// fetched at once, unless they were fetched in the last 30 seconds.
    ///
    /// # Errors
    /// [`Rejected`]. The answer comes by the deadline.
    pub async fn check(&self, token: &str, deadline: Instant) -> Result<Claims, Rejected> {
        let checked = self.verify(token, SystemTime::now());
        let Err(Rejected::UnknownKey | Rejected::NoKeys) = &checked else {
            return checked;
        };
        let Some(issuer) = Jws::parse(token).ok().and_then(|it| self.issuer(&it)) else {
            return checked;
        };
        if issuer.keeper.fetch_again(deadline).await {
            return self.verify(token, SystemTime::now());
        }
        checked
    }

    /// Checks a token with the keys that are known. The algorithm and the key come from the settings of the issuer that it
    /// names; the token only chooses among those.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, Rejected> {
        let jws = Jws::parse(token)?;
        let issuer = self.issuer(&jws).ok_or(Rejected::UnknownIssuer)?;
        if !issuer.algorithms.contains(&jws.algorithm) {
            return Err(Rejected::Algorithm);
        }
        let keys = issuer.keeper.keys().ok_or(Rejected::NoKeys)?;
        let candidates = match keys.candidates(jws.key_id.as_deref(), jws.algorithm) {
            Candidates::Keys(keys) => keys,
            Candidates::Unknown => return Err(Rejected::UnknownKey),
            Candidates::Several => return Err(Rejected::WhichKey),
        };
        let mut candidates = candidates.into_iter();
        let is_signed = candidates.any(|key| {
            key.material
                .verify(jws.algorithm, jws.signed, &jws.signature)
        });
        if !is_signed {
            return Err(Rejected::Signature);
        }
        let expected = Expected {
            issuer: &issuer.name,
            audience: &issuer.audience,
            user_claim: &issuer.user_claim,
            now: seconds_since_1970(now),
            leeway: self.leeway.as_secs(),
        };
        Claims::check(&jws.claims, &expected)
    }

    /// The issuer that a token names. Nobody knows yet whether that is true.
    fn issuer(&self, jws: &Jws<'_>) -> Option<&Issuer> {
        let name = jws.claims.get("iss").and_then(Value::as_str)?;
        self.issuers.iter().find(|issuer| issuer.name == name)
    }
}

fn wrong(settings: &IssuerSettings, what: &'static str) -> IssuerError {
    IssuerError::Settings {
        issuer: settings.issuer.clone(),
        what,
    }
}

fn check(settings: &IssuerSettings) -> Result<(), IssuerError> {
    let IssuerSettings {
        issuer,
        audience,
        algorithms,
        jwks_file,
        jwks_url,
        jwks_ca_file,
        public_key_file,
        secret_file,
        previous_secret_file,
        user_claim,
    } = settings;
    let sources = [
        jwks_file.is_some(),
        jwks_url.is_some(),
        public_key_file.is_some(),
        secret_file.is_some(),
    ];
    let what = if issuer.is_empty() {
        "issuer is empty; expected what its tokens have as \"iss\""
    } else if audience.is_empty() {
        "audience is empty. Then a token that was made for another service would be accepted: name what its tokens have as \"aud\""
    } else if algorithms.is_empty() {
        "algorithms is empty; expected one such as [\"ES256\"]"
    } else if user_claim.is_empty() {
        "user_claim is empty; leave it out to mean \"sub\""
    } else if sources.iter().filter(|is_there| **is_there).count() != 1 {
        "expected exactly one of jwks_file, jwks_url, public_key_file and secret_file"
    } else if previous_secret_file.is_some() && secret_file.is_none() {
        "previous_secret_file needs secret_file beside it"
    } else if algorithms
        .iter()
        .any(|it| it.is_symmetric() != secret_file.is_some())
    {
        "HS256, HS384 and HS512 need secret_file, and all other algorithms need public keys"
    } else if jwks_url
        .as_deref()
        .is_some_and(|url| Source::parse_url(url).is_none())
    {
        "jwks_url must be a URL such as https://id.example/jwks.json, without a user or a password"
    } else if jwks_ca_file.is_some()
        && jwks_url
            .as_deref()
            .and_then(Source::parse_url)
            .is_none_or(|it| it.scheme_str() != Some("https"))
    {
        "jwks_ca_file needs a jwks_url with https:// beside it; without it, keys would be fetched without encryption"
    } else {
        return Ok(());
    };
    Err(wrong(settings, what))
}
