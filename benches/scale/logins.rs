//! Logins of a PostgreSQL server: made for whoever asks and dropped by the reaper, through the whole broker, while its
//! ledger holds all the leases.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly::ledger::{Filter, Ledger, Page, StateName};
use dayfly::model::access::Access;
use dayfly::model::cutoff::Selector;
use dayfly::provider::guard::{Guard, Limits};
use dayfly::provider::postgres::Settings;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use crate::estate::Estate;
use crate::table::{rate, row};
use crate::{leases, postgres_server};

/// How many: each is a role of the server.
const LOGINS: usize = 200;
/// Connections that make logins, and as many that end them: what a configuration that says nothing gets.
const CONNECTIONS: usize = 8;

fn tool(database: &postgres_server::Estate) -> String {
    format!(
        "name = 'orders-db'\ndescription = 'Orders'\nowner = 'Orders'\nrisk = 'medium'\n\
         sensitivity = 'confidential'\nzone = 'eu'\nenvironment = 'production'\n\
         audience = 'https://orders.example.org'\nprovider = 'orders-db'\nmax_ttl = '1h'\ndefault_ttl = '5m'\n\
         [actions]\nread = 'read'\n[parameters]\ndatabase = '{}'\n[parameters.roles]\nread = ['reader_{}']\n",
        database.database(),
        database.mark,
    )
}

pub(crate) async fn measure(ledger: Arc<dyn Ledger>, agents: usize) {
    let Some(database) = postgres_server::Estate::new() else {
        row(
            "logins of PostgreSQL",
            "not measured",
            "DAYFLY_TEST_POSTGRES is not set",
        );
        return;
    };
    let database = database.await;
    let provider = postgres_server::provider(Settings {
        mint_connections: CONNECTIONS,
        end_connections: CONNECTIONS,
        ..database.settings()
    });
    let name: dayfly::model::name::ProviderName = "orders-db".parse().unwrap();
    let guarded = Arc::new(Guard::new(name.clone(), provider, Limits::default()));
    let more = Some((name, guarded as _, tool(&database)));
    let estate = Arc::new(Estate::with(Arc::clone(&ledger), agents, more));
    let access = Access::new(
        "orders-db".parse().unwrap(),
        ["read".parse().unwrap()].into(),
        [].into(),
    );
    let access = access.unwrap();
    let caller = estate.caller("agents/support-bot-0").await;
    let task = estate.open(&caller, &access).await;

    let began = Instant::now();
    let mut issuing = stream::iter(0..LOGINS)
        .map(|_| estate.issue(&caller, task, &access))
        .buffer_unordered(leases::CALLERS);
    while issuing.next().await.is_some() {}
    let took = began.elapsed();
    row(
        "logins of PostgreSQL, made",
        format!("{:.0} a second", rate(LOGINS, took)),
        &format!(
            "{LOGINS} in all, issued by the broker to {} callers, {CONNECTIONS} connections",
            leases::CALLERS
        ),
    );

    let stop = CancellationToken::new();
    let reaping = tokio::spawn(Arc::clone(&estate.broker).reap(stop.clone()));
    let operator = estate.caller("ops/console").await;
    let request = estate.broker.request_id().unwrap();
    let whom = Selector::Tool("orders-db".parse().unwrap());
    let began = Instant::now();
    let order = estate.broker.revoke_all(&operator, whom, "a benchmark", request);
    order.await.unwrap();
    while ended(&*ledger).await < LOGINS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    stop.cancel();
    reaping.await.unwrap();
    let left = database
        .ask("SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'dayfly_{}_')")
        .await;
    assert_eq!(left, "0");
    row(
        "logins of PostgreSQL, dropped",
        format!("{:.0} a second", rate(LOGINS, took)),
        &format!("the same, by one order and the reaper, each verified absent, {CONNECTIONS} connections"),
    );
}

/// How many logins have ended.
async fn ended(ledger: &dyn Ledger) -> usize {
    let filter = Filter {
        tool: Some("orders-db".parse().unwrap()),
        state: Some(StateName::Ended),
        ..Filter::default()
    };
    let page = Page {
        after: None,
        limit: NonZeroUsize::new(Page::MOST).unwrap(),
    };
    ledger.find(&filter, &page).await.unwrap().len()
}
