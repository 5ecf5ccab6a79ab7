//! Names that are never used again, and are not to be guessed.

/// Random bytes for one. In tests they come from the generator that a seed repeats.
pub(crate) fn unguessable<const BYTES: usize>() -> Result<[u8; BYTES], getrandom::Error> {
    let mut bytes = [0; BYTES];
    if cfg!(test) {
        fastrand::fill(&mut bytes);
    } else {
        getrandom::fill(&mut bytes)?;
    }
    Ok(bytes)
}
