//! The endpoints that are asked, as the public HTTP API describes them.

use std::collections::BTreeMap;

use rustify_derive::Endpoint;

/// `POST auth/token/create/{role}` or `auth/token/create-orphan`: the token that a lease hangs on.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}", method = "POST")]
pub(super) struct CreateToken {
    #[endpoint(skip)]
    pub(super) path: String,
    pub(super) policies: Vec<String>,
    pub(super) no_default_policy: bool,
    pub(super) ttl: String,
    pub(super) explicit_max_ttl: String,
    pub(super) renewable: bool,
    pub(super) display_name: String,
    pub(super) meta: BTreeMap<&'static str, String>,
}

/// `LIST auth/token/accessors`.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/accessors", method = "LIST")]
pub(super) struct ListAccessors {}

/// `POST auth/token/lookup-accessor`.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/lookup-accessor", method = "POST")]
pub(super) struct LookUpAccessor {
    pub(super) accessor: String,
}

/// `POST auth/token/revoke-accessor`.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/revoke-accessor", method = "POST")]
pub(super) struct RevokeAccessor {
    pub(super) accessor: String,
}

/// `POST auth/token/renew-accessor`.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/renew-accessor", method = "POST")]
pub(super) struct RenewAccessor {
    pub(super) accessor: String,
    pub(super) increment: String,
}

/// `GET auth/token/lookup-self`.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/lookup-self")]
pub(super) struct LookUpSelf {}

/// `POST auth/token/renew-self`.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/renew-self", method = "POST")]
pub(super) struct RenewSelf {}

/// `POST sys/capabilities-self`.
#[derive(Endpoint)]
#[endpoint(path = "sys/capabilities-self", method = "POST")]
pub(super) struct Capabilities {
    pub(super) paths: Vec<String>,
}

/// `POST sys/leases/lookup`.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/lookup", method = "POST")]
pub(super) struct LookUpLease {
    pub(super) lease_id: String,
}

/// `POST sys/leases/renew`.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/renew", method = "POST")]
pub(super) struct RenewLease {
    pub(super) lease_id: String,
    pub(super) increment: u64,
}

/// `POST sys/leases/revoke`, waiting for the engine to have ended it.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/revoke", method = "POST")]
pub(super) struct RevokeLease {
    pub(super) lease_id: String,
    pub(super) sync: bool,
}

/// `POST sys/wrapping/wrap`.
#[derive(Endpoint)]
#[endpoint(path = "sys/wrapping/wrap", method = "POST")]
pub(super) struct Wrap {
    #[endpoint(raw)]
    pub(super) data: Vec<u8>,
}

/// `GET` of a secret.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}")]
pub(super) struct ReadSecret {
    #[endpoint(skip)]
    pub(super) path: String,
}

/// `POST` that makes a secret.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}", method = "POST")]
pub(super) struct WriteSecret {
    #[endpoint(skip)]
    pub(super) path: String,
    #[endpoint(raw)]
    pub(super) body: Vec<u8>,
}

/// `POST auth/{mount}/login` of the JWT and Kubernetes methods.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
pub(super) struct LogInByJwt {
    #[endpoint(skip)]
    pub(super) mount: String,
    pub(super) role: String,
    pub(super) jwt: String,
}

/// `POST auth/{mount}/login` of AppRole.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
pub(super) struct LogInByAppRole {
    #[endpoint(skip)]
    pub(super) mount: String,
    pub(super) role_id: String,
    pub(super) secret_id: String,
}
