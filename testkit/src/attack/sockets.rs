//! More sockets than a process has descriptors for. They send nothing, or only the beginning of something.

use crate::impact::load::{Attack, Target};
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Sockets at the same time.
const SOCKETS: usize = 1_300;
/// The pause between two of them.
const APART: Duration = Duration::from_micros(400);

/// Connects and sends nothing, or half of a request, or half of a package. It counts the `sockets` that the kernel
/// accepted.
#[derive(Debug, Clone, Copy)]
pub struct Sockets;

impl Attack for Sockets {
    async fn run(self, target: Target) {
        let mut sockets = JoinSet::new();
        for number in 0..SOCKETS {
            sockets.spawn(hold(target.clone(), number));
        }
        while let Some(held) = sockets.join_next().await {
            if !matches!(held, Ok(Ok(()))) {
                target.tally.count("connections refused");
            }
        }
    }
}

async fn hold(target: Target, number: usize) -> io::Result<()> {
    sleep(APART * u32::try_from(number).unwrap_or_default()).await;
    let mut stream = TcpStream::connect(target.connector).await?;
    target.tally.count("sockets");
    let begin: &[u8] = match number % 3 {
        0 => &[],
        1 => b"GET /ws HTTP/1.1\r\n",
        _ => &[1, 0],
    };
    stream.write_all(begin).await?;
    std::future::pending::<()>().await;
    drop(stream);
    Ok(())
}
