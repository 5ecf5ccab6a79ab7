//! Random bytes for names that never come again and that nobody can guess.

/// Returns random bytes. In tests they come from a generator with a seed, so that a failed run can be repeated.
pub(crate) fn unguessable<const BYTES: usize>() -> Result<[u8; BYTES], getrandom::Error> {
    let mut bytes = [0; BYTES];
    if cfg!(test) {
        fastrand::fill(&mut bytes);
    } else {
        getrandom::fill(&mut bytes)?;
    }
    Ok(bytes)
}
