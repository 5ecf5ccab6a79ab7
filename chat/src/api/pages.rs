//! How large pages are, and the tokens of the next ones. A token is good only for a request with the arguments for which it
//! was made.

use xxhash_rust::xxh3::Xxh3;

const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

/// What is wrong with a token that was made for another request.
pub(crate) const WRONG_TOKEN: &str = "is not from a page of this request: repeat it with the arguments of that page, or leave it empty to begin anew";

/// How many entries a page has.
pub(crate) fn page_size(asked: u32) -> usize {
    match asked as usize {
        0 => DEFAULT_PAGE,
        size => size.min(LARGEST_PAGE),
    }
}

/// A digest of the arguments of a request that must not change from page to page. Every chat process makes the same one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments(u64);

impl Arguments {
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Xxh3::new();
        for part in parts {
            // With the length, so that two lists of parts never look the same.
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.digest())
    }

    /// The token for what the next page needs to know.
    pub(crate) fn seal(self, rest: &str) -> String {
        format!("{:016x}{rest}", self.0)
    }

    /// What was sealed into the token. `None` if the token was made for other arguments, or by somebody else.
    pub(crate) fn open(self, token: &str) -> Option<&str> {
        token.strip_prefix(&format!("{:016x}", self.0))
    }
}
