//! The handlers of the operator: which requests they get, and how they are called.
//!
//! A request whose route matches a pattern of `--route` is passed to the operator's own gRPC service
//! (`proto/route/v1/route_handler.proto`, docs/handlers.md). Each service has bounds and connections of its own, so one that
//! hangs costs nobody anything but its own callers. A call is never repeated.

mod call;
mod pattern;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use call::{CallError, Target};
pub use pattern::RouteError;

use crate::call_settings::RouteTls;
use crate::operator::{CALLS, Service, keep_resolving};
use channel_store::Route;
use http::Uri;
use pattern::Table;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// For the log.
const OUTAGE: &str = "requests for its routes are refused until it is back";

/// The handlers of the operator, by the routes that they answer.
pub struct Routes {
    table: Table<Arc<Target>>,
    /// The name of this connector, which handlers are told.
    connector: String,
    /// They resolve the names of the handlers again and again.
    _resolving: Vec<AbortOnDropHandle<()>>,
}

/// Checks the values of `--route`, and returns their addresses.
///
/// # Errors
/// [`RouteError`] names the first value that can't be used.
pub(crate) fn check(values: &[String]) -> Result<Vec<Uri>, RouteError> {
    let settings = pattern::parse(values)?.into_iter();
    Ok(settings.map(|setting| setting.uri).collect())
}

impl Routes {
    /// Reads the values of `--route`, and begins to resolve the names in them. `connector` is the name of this connector,
    /// `limit` the most bytes of a reply, and `tls` says whom to trust. To be called inside a runtime of tokio.
    ///
    /// # Errors
    /// [`RouteError`] names the first value that can't be used, or the file.
    pub fn begin(
        values: &[String],
        connector: &str,
        limit: usize,
        tls: &RouteTls,
    ) -> Result<Arc<Self>, RouteError> {
        let tls = tls.begin(&check(values)?)?;
        let mut targets = HashMap::new();
        let mut resolving = Vec::new();
        let entries = pattern::parse(values)?.into_iter().map(|setting| {
            // Patterns with the same address share its bounds and its connections.
            let target = targets.entry(setting.uri.clone()).or_insert_with(|| {
                let service = Service::new(&setting.uri, CALLS, OUTAGE);
                if let Some(tls) = &tls {
                    service.trust(Arc::clone(tls));
                }
                let run = keep_resolving(Arc::downgrade(&service), setting.uri.clone());
                resolving.push(AbortOnDropHandle::new(tokio::spawn(run)));
                Target::new(service, limit)
            });
            let target = Arc::clone(target);
            (setting, target)
        });
        Ok(Arc::new(Self {
            table: Table::new(entries),
            connector: connector.to_owned(),
            _resolving: resolving,
        }))
    }

    /// The handler for a route. `None`: no pattern matches, or the text can't be a route.
    pub(crate) fn find(&self, route: &str) -> Option<&Target> {
        let target = self.table.find(route)?;
        Route::new(route).ok()?;
        Some(target)
    }

    /// The name of this connector.
    pub(crate) fn connector(&self) -> &str {
        &self.connector
    }
}
