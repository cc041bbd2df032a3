//! Every route, with what bounds it and for whom it is.
//!
//! One listener serves all of them, unless the configuration gives those for tools or for operators a listener of
//! their own; then the others do not answer there. This is a second fence: what a caller may do is for policy to say,
//! whichever way it comes.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use super::{
    Shared, decisions, facts, journal, leases, oauth, public, reconciliations, registry, revocations, rules,
    signals, status_lists, tasks,
};

/// The largest set of rules that may be sent, in bytes.
const LARGEST_RULES: usize = 8 * 1024 * 1024;

pub(super) type Routes = OpenApiRouter<Arc<Shared>>;

/// For whom a route is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whom {
    /// Workloads that ask for credentials, and whoever knows Dayfly by its public address only.
    Agents,
    /// Resource servers, which verify credentials.
    Tools,
    /// People and systems that run Dayfly.
    Operators,
}

impl Whom {
    /// Everybody.
    pub(super) const ALL: [Self; 3] = [Self::Agents, Self::Tools, Self::Operators];
}

/// What bounds a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bound {
    /// It answers at once.
    Prompt,
    /// It may be asked to wait.
    Waiting,
    /// It takes a whole set of rules. Few places of their own, so that bodies are bounded in all.
    Large,
    /// It is for transmitters of signals, who prove themselves by other means.
    Signalling,
    /// It needs no evidence and asks nobody.
    Open,
    /// It needs no evidence, and asks the ledger once a second for all.
    Listing,
    /// It needs no evidence and asks the ledger.
    Probing,
}

impl Bound {
    /// All of them.
    pub(super) const ALL: [Self; 7] = [
        Self::Prompt,
        Self::Waiting,
        Self::Large,
        Self::Signalling,
        Self::Open,
        Self::Listing,
        Self::Probing,
    ];
}

type Row = (Bound, &'static [Whom], UtoipaMethodRouter<Arc<Shared>>);

/// The table.
#[rustfmt::skip]
fn table() -> Vec<Row> {
    use Bound::{Large, Listing, Open, Probing, Prompt, Signalling, Waiting};
    use Whom::{Agents, Operators, Tools};
    vec![
        (Prompt, &[Agents], routes!(tasks::open)),
        (Prompt, &[Agents, Operators], routes!(tasks::inspect)),
        (Prompt, &[Agents], routes!(tasks::delegate)),
        (Prompt, &[Agents, Operators], routes!(tasks::below)),
        (Prompt, &[Agents], routes!(tasks::heartbeat)),
        (Prompt, &[Agents, Operators], routes!(tasks::suspend)),
        (Prompt, &[Agents, Operators], routes!(tasks::resume)),
        (Waiting, &[Agents], routes!(tasks::complete)),
        (Waiting, &[Agents, Operators], routes!(tasks::revoke)),
        (Prompt, &[Agents], routes!(leases::issue)),
        (Prompt, &[Agents, Operators], routes!(leases::list)),
        (Prompt, &[Agents, Operators], routes!(leases::inspect)),
        (Prompt, &[Agents], routes!(leases::renew)),
        (Prompt, &[Agents, Operators], routes!(leases::revoke)),
        (Prompt, &[Operators], routes!(leases::retry)),
        (Prompt, &[Operators], routes!(leases::abandon)),
        (Prompt, &[Agents], routes!(decisions::decide)),
        (Prompt, &[Operators], routes!(facts::list)),
        (Prompt, &[Operators], routes!(facts::state, facts::take_back)),
        (Prompt, &[Operators], routes!(facts::rechecks)),
        (Prompt, &[Agents, Operators], routes!(registry::agents)),
        (Prompt, &[Agents, Operators], routes!(registry::agent)),
        (Prompt, &[Agents, Operators], routes!(registry::tools)),
        (Prompt, &[Agents, Operators], routes!(registry::tool)),
        (Prompt, &[Operators], routes!(journal::read)),
        (Prompt, &[Operators], routes!(journal::checkpoint)),
        (Waiting, &[Operators], routes!(reconciliations::reconcile)),
        (Waiting, &[Operators], routes!(rules::reload)),
        (Large, &[Operators], routes!(rules::preview)),
        (Waiting, &[Operators], routes!(revocations::revoke)),
        (Waiting, &[Tools, Operators], routes!(revocations::follow)),
        (Prompt, &[Tools], routes!(oauth::introspect)),
        (Prompt, &[Agents, Tools], routes!(oauth::revoke)),
        // Transmitters know the public address.
        (Signalling, &[Agents], routes!(signals::push)),
        // What tokens name by the public address, for everybody to read.
        (Open, &[Agents, Tools], routes!(public::jwks)),
        (Open, &[Agents, Tools], routes!(public::metadata)),
        (Open, &[Agents, Tools], routes!(public::discovery)),
        (Listing, &[Agents, Tools], routes!(status_lists::list)),
        (Listing, &[Agents, Tools], routes!(status_lists::read)),
        (Open, &[Operators], routes!(public::metrics)),
        (Open, &Whom::ALL, routes!(public::openapi)),
        (Open, &Whom::ALL, routes!(public::healthz)),
        (Probing, &Whom::ALL, routes!(public::readyz)),
    ]
}

/// The routes with this bound that are for any of these.
pub(super) fn routes(bound: Bound, whom: &[Whom]) -> Routes {
    let rows = table().into_iter();
    let wanted =
        rows.filter(|(of, for_whom, _)| *of == bound && for_whom.iter().any(|one| whom.contains(one)));
    let routes = wanted.fold(OpenApiRouter::new(), |routes, (_, _, route)| routes.routes(route));
    match bound {
        Bound::Large => routes.layer(DefaultBodyLimit::max(LARGEST_RULES)),
        _ => routes,
    }
}

/// Every route, without what bounds it.
pub(super) fn all() -> Routes {
    Bound::ALL
        .into_iter()
        .fold(OpenApiRouter::new(), |merged, bound| {
            merged.merge(routes(bound, &Whom::ALL))
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn paths(routes: Routes) -> BTreeSet<String> {
        let api = routes.into_openapi();
        let operations = |item: &utoipa::openapi::PathItem| {
            [
                ("GET", &item.get),
                ("POST", &item.post),
                ("PUT", &item.put),
                ("DELETE", &item.delete),
            ]
            .into_iter()
            .filter_map(|(method, operation)| operation.as_ref().map(|_| method))
            .collect::<Vec<_>>()
        };
        let all = api.paths.paths.iter();
        all.flat_map(|(path, item)| {
            operations(item)
                .into_iter()
                .map(move |method| format!("{method} {path}"))
        })
        .collect()
    }

    fn of(whom: &[Whom]) -> BTreeSet<String> {
        Bound::ALL
            .iter()
            .flat_map(|bound| paths(routes(*bound, whom)))
            .collect()
    }

    #[test]
    fn every_route_is_for_somebody() {
        assert!(table().iter().all(|(_, whom, _)| !whom.is_empty()));
        assert_eq!(of(&Whom::ALL), paths(all()));
        let described: serde_json::Value = serde_json::from_str(&super::super::openapi()).unwrap();
        let described = described["paths"].as_object().unwrap().iter();
        let described: BTreeSet<String> = described
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys();
                methods.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        assert_eq!(described, of(&Whom::ALL));
    }

    #[test]
    fn what_ends_the_access_of_others_and_what_tells_about_them_is_for_operators() {
        let (agents, tools, operators) = (of(&[Whom::Agents]), of(&[Whom::Tools]), of(&[Whom::Operators]));
        for route in [
            "GET /metrics",
            "POST /v1/revocations",
            "PUT /v1/facts/{subject}/{id}/{name}",
            "GET /v1/journal",
        ] {
            let route = operators
                .iter()
                .find(|known| {
                    *known == route || known.starts_with(&route[..route.find('{').unwrap_or(route.len())])
                })
                .unwrap_or_else(|| panic!("{route} is not for operators: {operators:?}"));
            assert!(!agents.contains(route) && !tools.contains(route), "{route}");
        }
        assert!(tools.contains("POST /oauth2/introspect") && !agents.contains("POST /oauth2/introspect"));
        assert!(agents.contains("POST /v1/tasks") && !tools.contains("POST /v1/tasks"));
        for each in [&agents, &tools, &operators] {
            assert!(each.contains("GET /healthz") && each.contains("GET /readyz"));
        }
    }
}
