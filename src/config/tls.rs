//! `[server.tls]`: how a listener proves who it is.

use std::path::PathBuf;

use serde::Deserialize;

use crate::identity::workload_api::WorkloadApi;
use crate::model::document::Section;

use super::read::Base;

/// How a listener proves who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsConfig {
    /// The certificate and its key.
    pub certificate: CertificateAt,
    /// What is asked of clients.
    pub client_certificates: ClientCertificates,
}

/// What a listener asks of its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// Nothing: evidence comes with each request.
    #[default]
    None,
    /// One that is presented has to be an X.509-SVID of a configured trust domain, and is evidence.
    Optional,
}

/// Where a certificate and its key come from. A new pair takes the place of the old one while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CertificateAt {
    /// PEM files.
    Files {
        /// The chain, the server's own certificate first.
        cert_file: PathBuf,
        /// The private key, which nobody else can read.
        key_file: PathBuf,
    },
    /// SPIFFE's Workload API: our own X.509-SVID.
    WorkloadApi(WorkloadApi),
}

/// Reads the section `tls` of a listener, if there is one.
pub(super) fn read(listener: &mut Section<'_>, base: Base<'_>) -> Option<TlsConfig> {
    if !listener.has("tls") {
        return None;
    }
    let mut section = listener.section("tls");
    let cert_file = base.optional_path(&mut section, "cert_file");
    let key_file = base.optional_path(&mut section, "key_file");
    let from_agent = section.has("workload_api");
    let api: Option<WorkloadApi> = section.parsed("workload_api");
    for (key, path) in [("cert_file", &cert_file), ("key_file", &key_file)] {
        if from_agent && path.is_some() {
            section.blame(
                key,
                "`workload_api` gives a certificate and a key too",
                "keep the two files, or `workload_api`",
            );
        }
        if !from_agent && path.is_none() && !section.has(key) {
            section.blame(
                key,
                "it is missing",
                "name two PEM files, `cert_file` with the chain and `key_file` with the private key, or the \
                 `workload_api` of SPIFFE, or leave the section out",
            );
        }
    }
    let client_certificates = section.or("client_certificates", ClientCertificates::None);
    // What is missing was said; a listener that was to speak TLS is not one that does not.
    Some(TlsConfig {
        certificate: api.map_or_else(
            || CertificateAt::Files {
                cert_file: cert_file.unwrap_or_default(),
                key_file: key_file.unwrap_or_default(),
            },
            CertificateAt::WorkloadApi,
        ),
        client_certificates,
    })
}
