//! Small files that operators write, such as settings, tokens and keys.

mod watch;

pub use watch::{Change, FileWatch, LOOK, ReadError, read_all};

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::SystemTime;

/// Reads a whole file of at most `most` bytes.
///
/// # Errors
/// An error of the system; [`ErrorKind::FileTooLarge`] if the file has more bytes.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_with_time(path, most).map(|(content, _)| content)
}

/// The same, and when the file was modified last, if the system knows.
fn read_with_time(path: &Path, most: u64) -> io::Result<(Vec<u8>, Option<SystemTime>)> {
    let mut content = Vec::new();
    let mut file = File::open(path)?;
    // One byte more than is allowed shows that there is too much.
    (&mut file).take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        let error = format!("it has more than {most} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, error));
    }
    let modified = file.metadata()?.modified().ok();
    Ok((content, modified))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_a_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 4 bytes");
        assert!(read(&directory.path().join("other"), 5).is_err());
    }
}
