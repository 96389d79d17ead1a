//! Serves metrics, and hears signals.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use millstream_engine::book::Book;
use millstream_engine::metrics::Metrics;
use millstream_engine::{Fault, Result};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Starts serving `/metrics` and `/healthz`, where an address is given, and listening for SIGINT and SIGTERM, until the
/// runtime is dropped. The address is the one that was bound, should the port have been 0.
pub fn start(
    address: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    book: Arc<Book>,
) -> Result<(Runtime, Option<SocketAddr>)> {
    let runtime = hear(book, "stopping after the open epochs")?;
    let bound = address.map(|address| runtime.block_on(serve(address, metrics))).transpose()?;
    Ok((runtime, bound))
}

/// Listens for SIGINT and SIGTERM only, likewise; `what` happens at the first is told.
pub fn hear(book: Arc<Book>, what: &'static str) -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Fault::world("the server's thread cannot be started").because(error))?;
    runtime.spawn(hear_signals(book, what));
    Ok(runtime)
}

async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> Result<SocketAddr> {
    let taken = |error| {
        Fault::world(format!(
            "metrics cannot be served at {address}; choose another `serve.metrics`, or --metrics 127.0.0.1:0"
        ))
        .because(error)
    };
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let bound = listener.local_addr().map_err(taken)?;
    let text = move || async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()) };
    let routes = Router::new().route("/metrics", get(text)).route("/healthz", get(|| async { "ok" }));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            eprintln!("metrics are no longer served: {error}");
        }
    });
    Ok(bound)
}

/// The first signal stops the run after its open epochs; the second ends the program, which loses nothing either.
async fn hear_signals(book: Arc<Book>, what: &str) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return eprintln!("signals cannot be heard; the run can only be killed");
    };
    for first in [true, false] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if first {
            eprintln!("{what}; once more to stop at once");
            book.stop();
        } else {
            std::process::exit(130);
        }
    }
}
