//! A listening unix socket.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::fs::{self, File};
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixListener};

/// The bytes of a path that fit into the address of a unix socket.
pub(super) const LONGEST: usize = 107;
/// How long to wait for other processes that bind or remove a socket in the same directory.
const OTHERS: Duration = Duration::from_secs(1);
/// The pause between two tries to lock the directory.
const PAUSE: Duration = Duration::from_millis(5);

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnixError {
    /// Another process listens there.
    #[error("another process listens there; stop it, or choose another path")]
    Taken,
    /// The file is not a socket.
    #[error("there is a file that is no socket; remove it, or choose another path")]
    NoSocket,
    /// The directory does not exist.
    #[error("there is no directory {0}; create it")]
    NoDirectory(PathBuf),
    /// This process may not write in the directory.
    #[error("{0}; give this process the right to write in the directory")]
    Denied(io::Error),
    /// Anything else.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file. They show whether the file at the path is still this socket's.
    file: (u64, u64),
}

impl UnixSocket {
    /// Listens at `path`, which is absolute. A file that was left there by a process that is gone is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, UnixError> {
        // No other process may bind or remove a socket between the check and what follows from it.
        let _lock = lock_directory(path)?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(told(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(UnixError::NoSocket),
            Ok(_) if is_taken(path)? => return Err(UnixError::Taken),
            Ok(_) => fs::remove_file(path).map_err(told)?,
        }
        let socket = tokio::net::UnixSocket::new_stream()?;
        socket.bind(path).map_err(told)?;
        let listener = socket.listen(super::BACKLOG)?;
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (found.dev(), found.ino()),
        })
    }

    /// Where it listens.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts the next connection, as a stream like one of TCP.
    pub(super) async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.listener.accept().await?;
        let descriptor = OwnedFd::from(stream.into_std()?);
        TcpStream::from_std(StdTcpStream::from(descriptor))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // The file is removed while the listener still lives, so nobody finds a file without a listener. The lock keeps
        // other processes from replacing the file between the check and the removal.
        let _lock = lock_directory(&self.path);
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Locks the directory against other processes that bind or remove sockets there. Dropping the file unlocks it.
fn lock_directory(path: &Path) -> Result<File, UnixError> {
    let directory = path.parent().unwrap_or(path);
    let file = File::open(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => UnixError::NoDirectory(directory.to_owned()),
        _ => told(error),
    })?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < OTHERS => {
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(UnixError::System(error.into())),
        }
    }
}

/// True if a process listens at this socket. This does not wait, even if that process is slow to accept.
fn is_taken(path: &Path) -> Result<bool, UnixError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.map_err(io::Error::from)?;
    let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(told(error.into())),
    }
}

fn told(error: io::Error) -> UnixError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => UnixError::Denied(error),
        _ => UnixError::System(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ListenAddress, Listener};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    fn bind(path: &Path) -> Result<Listener, String> {
        let bound = Listener::bind(&ListenAddress::Unix(path.to_owned()));
        bound.map_err(|error| format!("{error}: {}", error.source))
    }

    #[tokio::test]
    async fn bytes_pass_in_both_directions_until_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = bind(&path).unwrap();
        assert_eq!(
            listener.local_address().unwrap(),
            ListenAddress::Unix(path.clone())
        );
        let (client, server) = tokio::join!(UnixStream::connect(&path), listener.accept());
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        assert!(server.peer_addr().is_err());
        client.write_all(b"hello").await.unwrap();
        let mut first = [0];
        assert_eq!(server.peek(&mut first).await.unwrap(), 1);
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
        let (reader, writer) = server.into_split();
        writer.writable().await.unwrap();
        assert_eq!(writer.try_write(b"well").unwrap(), 4);
        drop((reader, writer));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"well");
    }

    #[tokio::test]
    async fn a_socket_file_left_by_a_crash_is_replaced_and_the_own_one_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        // A file without a listener is what a crash leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = bind(&path).unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_with_a_listener_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let first = bind(&path).unwrap();
        let expected = format!(
            "cannot listen on unix:{}: another process listens there; stop it, or choose another path",
            path.display()
        );
        assert_eq!(bind(&path).unwrap_err(), expected);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(first);
        assert!(bind(&path).is_ok());
    }

    #[tokio::test]
    async fn the_socket_file_of_a_successor_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind(&path).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(second);
    }

    #[tokio::test]
    async fn the_error_names_what_is_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(bind(&path).unwrap_err().contains("no socket; remove it"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let nowhere = directory.path().join("none/s");
        let error = bind(&nowhere).unwrap_err();
        assert!(error.contains("there is no directory"), "{error}");
    }

    #[tokio::test]
    async fn of_two_processes_that_start_at_the_same_time_one_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let runtime = tokio::runtime::Handle::current();
        let bound: Vec<_> = std::thread::scope(|scope| {
            let begin = || {
                scope.spawn(|| {
                    let _inside = runtime.enter();
                    bind(&path)
                })
            };
            let threads: Vec<_> = std::iter::repeat_with(begin).take(4).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert_eq!(bound.iter().filter(|it| it.is_ok()).count(), 1);
    }
}
