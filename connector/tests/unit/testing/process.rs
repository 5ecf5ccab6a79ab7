//! A service of the operator that can die: a gRPC server behind a socket, with a runtime of its own in place of a process.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::Service;

/// Keeps the service up. When it is dropped, its sockets are closed before anything else happens.
pub(crate) struct Process {
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Serves a service.
pub(crate) fn serve<S>(listener: TcpListener, service: S) -> Process
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let end = CancellationToken::new();
    let ended = end.clone();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let listener = listener.into_std().unwrap();
    // The thread owns the runtime, so everything in it is gone when the thread has ended.
    let thread = thread::spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let serving = Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener));
            let outcome = ended.run_until_cancelled(serving).await;
            outcome.transpose().unwrap();
        });
    });
    Process {
        end,
        thread: Some(thread),
    }
}

/// Listens at a free port of `127.0.0.x`. Each group of tests has an address of its own. Otherwise a connection of another one could
/// take the port while nobody listens there.
pub(crate) async fn listen(last: u8) -> (TcpListener, SocketAddr) {
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
