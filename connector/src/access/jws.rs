//! The parts of a signed token (RFC 7515, section 7.1), and what its header may say.

use super::algorithm::Algorithm;
use super::rejected::Rejected;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The most bytes of a token.
pub(crate) const LARGEST_TOKEN: usize = 8 << 10;

/// Members of a header that name another key, other rules, or another kind of content. A token with one of them is refused:
/// keys come from the settings alone, and no extension is known here.
const REFUSED: [&str; 10] = [
    "crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc", "cty", "url",
];

/// The types of tokens that are meant for access. Others, such as that of a log-out, must not be taken for one.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// A token, taken apart. Nothing of it is checked yet, except for its form.
pub(super) struct Jws<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// The claims, of which nobody knows yet who made them.
    pub(super) claims: Unique,
    /// What is signed: the first two parts with the dot between them.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'a str) -> Result<Self, Rejected> {
        if token.len() > LARGEST_TOKEN {
            return Err(Rejected::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Rejected::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(Rejected::Form)?;
        // A further dot is no letter of base64, so a token of five parts fails here.
        let decode = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok();
            bytes.filter(|it| !it.is_empty()).ok_or(Rejected::Form)
        };
        let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        let header: Unique = serde_json::from_slice(&header).map_err(|_| Rejected::Header)?;
        if let Some(member) = REFUSED.into_iter().find(|it| header.get(it).is_some()) {
            return Err(Rejected::HeaderMember(member));
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(kind)) if TYPES.contains(&&*kind.to_ascii_lowercase()) => {}
            Some(_) => return Err(Rejected::HeaderMember("typ")),
        }
        let algorithm = header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm.and_then(Algorithm::named);
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Rejected::HeaderMember("kid")),
        };
        Ok(Self {
            algorithm: algorithm.ok_or(Rejected::Algorithm)?,
            key_id,
            claims: serde_json::from_slice(&claims).map_err(|_| Rejected::Claims)?,
            signed: signed.as_bytes(),
            signature,
        })
    }
}

/// A JSON object in which no member is given twice. Two parsers may differ in which of two they take, so one could check
/// what the other does not use.
#[derive(Debug)]
pub(super) struct Unique(BTreeMap<String, Value>);

impl Unique {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object whose members have different names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member is given twice"));
                    }
                }
                Ok(Unique(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}
