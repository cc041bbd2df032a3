//! The listeners, from their configuration: opened at the start, when only keys are served, and led to all routes
//! later.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::certificate::ServerCertificate;
use super::client_certificates::ClientSvids;
use crate::clock::Clock;
use crate::config::server::{ListenerConfig, ServerConfig};
use crate::config::tls::{ClientCertificates, TlsConfig};
use crate::http::tls::Tls;
use crate::http::{self, Apart, Farewell, Limits, Routers};
use crate::identity::x509_svid::X509Svid;

/// Listeners that serve.
pub(super) struct Listeners {
    pub(super) certificates: Vec<Arc<ServerCertificate>>,
    main: Door,
    tools: Option<Door>,
    operators: Option<Door>,
}

/// One listener, and what leads to its routes.
struct Door {
    address: SocketAddr,
    /// For connections that were accepted early.
    opened: watch::Sender<Option<Router>>,
    /// For connections to come.
    routes: watch::Sender<Router>,
}

/// What all listeners have in common.
pub(super) struct Around<'a> {
    pub(super) limits: &'a Limits,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) tracker: &'a TaskTracker,
    pub(super) farewell: &'a Farewell,
    /// Who judges certificates of clients, where they are taken.
    pub(super) svids: Option<&'a Arc<X509Svid>>,
    /// Makes the early routes, which lead to all of them once those come through the channel.
    pub(super) early: &'a dyn Fn(watch::Receiver<Option<Router>>) -> Router,
}

impl Listeners {
    /// Opens all of them; the first is open already. From here on the early routes are served.
    pub(super) async fn open(
        config: &ServerConfig,
        main: TcpListener,
        around: &Around<'_>,
    ) -> anyhow::Result<Self> {
        let (tools, operators) = (config.tools.as_ref(), config.operators.as_ref());
        let own = |config: Option<&'_ ListenerConfig>| config.and_then(|config| config.tls.clone());
        let mut certificates = Vec::new();
        let first = tls(config.tls.as_ref(), "server", &mut certificates, around).await?;
        let tools_tls = tls(own(tools).as_ref(), "tools", &mut certificates, around).await?;
        let operators_tls = tls(own(operators).as_ref(), "operators", &mut certificates, around).await?;
        let or_first = |own: Option<Tls>, used_for| {
            let shared = || first.as_ref().map(|first| first.also_for(used_for));
            own.or_else(shared)
        };
        let (tools_tls, operators_tls) = (or_first(tools_tls, "tools"), or_first(operators_tls, "operators"));
        let (tools, operators) = (bind(tools).await?, bind(operators).await?);
        let door = |listener, tls| Door::open(listener, tls, around);
        Ok(Self {
            certificates,
            main: door(main, first)?,
            tools: tools.map(|listener| door(listener, tools_tls)).transpose()?,
            operators: operators
                .map(|listener| door(listener, operators_tls))
                .transpose()?,
        })
    }

    /// Which of them there are.
    pub(super) fn apart(&self) -> Apart {
        Apart {
            tools: self.tools.is_some(),
            operators: self.operators.is_some(),
        }
    }

    /// Serves all routes from now on.
    pub(super) fn lead_to(&self, routers: Routers) {
        self.main.lead_to(routers.main);
        for (door, router) in [(&self.tools, routers.tools), (&self.operators, routers.operators)] {
            if let (Some(door), Some(router)) = (door, router) {
                door.lead_to(router);
            }
        }
    }

    /// Where they listen: the first, that of tools, that of operators.
    pub(super) fn addresses(&self) -> (SocketAddr, Option<SocketAddr>, Option<SocketAddr>) {
        let address = |door: &Option<Door>| door.as_ref().map(|door| door.address);
        (self.main.address, address(&self.tools), address(&self.operators))
    }
}

/// TLS of a listener, with what it asks of clients. Its certificate joins the others.
async fn tls(
    config: Option<&TlsConfig>,
    used_for: &'static str,
    certificates: &mut Vec<Arc<ServerCertificate>>,
    around: &Around<'_>,
) -> anyhow::Result<Option<Tls>> {
    let Some(config) = config else { return Ok(None) };
    let held = ServerCertificate::open(config, used_for, Arc::clone(around.clock)).await?;
    certificates.push(Arc::clone(&held));
    let asked = config.client_certificates == ClientCertificates::Optional;
    let judge = around.svids.filter(|_| asked);
    let judge = judge.map(|svids| Arc::new(ClientSvids::new(Arc::clone(svids))) as Arc<_>);
    held.tls(judge.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .map(Some)
}

async fn bind(config: Option<&ListenerConfig>) -> anyhow::Result<Option<TcpListener>> {
    let Some(ListenerConfig { listen, .. }) = config else {
        return Ok(None);
    };
    let bound = TcpListener::bind(listen).await;
    Ok(Some(bound.with_context(|| format!("cannot listen on {listen}"))?))
}

impl Door {
    /// Serves until it is told to stop. Connections run on the tracker.
    fn open(listener: TcpListener, tls: Option<Tls>, around: &Around<'_>) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let (opened, open) = watch::channel(None);
        let (routes, current) = watch::channel((around.early)(open));
        let (farewell, tracker) = (around.farewell.clone(), around.tracker.clone());
        let serving = http::serve(listener, tls, current, around.limits.clone(), farewell, tracker);
        around.tracker.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, %address, "the server stopped");
            }
        });
        Ok(Self {
            address,
            opened,
            routes,
        })
    }

    fn lead_to(&self, router: Router) {
        self.opened.send_replace(Some(router.clone()));
        drop(self.routes.send_replace(router));
    }
}
