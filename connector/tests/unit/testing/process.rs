//! A service of the operator that can die: a gRPC server behind a socket, with a runtime of its own in place of a process.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::Service;

/// Keeps the service up. When it is dropped, its sockets are closed at once.
pub(crate) struct Process(Option<Runtime>);

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
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
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = listener.into_std().unwrap();
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let serving = Server::builder().add_service(service);
        serving
            .serve_with_incoming(TcpIncoming::from(listener))
            .await
            .unwrap();
    });
    Process(Some(runtime))
}

/// Listens at a free port of `127.0.0.x`. Each group of tests has an address of its own. Otherwise a connection of another one could
/// take the port while nobody listens there.
pub(crate) async fn listen(last: u8) -> (TcpListener, SocketAddr) {
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
