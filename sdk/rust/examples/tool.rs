//! A tool that accepts Dayfly's tokens: `DAYFLY_EVIDENCE_FILE=.dayfly/evidence/crm-server.jwt cargo run -p dayfly-client
//! --features tower --example tool`, beside `dayfly dev`.
#![expect(clippy::print_stdout, reason = "it is what the example is for")]

use axum::extract::{Extension, Path};
use axum::{Router, routing::get};
use dayfly_client::resource::{Claims, Demand, Layer, Settings, Verifier};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let issuer = std::env::args().nth(1).unwrap_or("http://127.0.0.1:8440".into());
    let verifier = Verifier::follow(Settings::new(issuer, "https://crm.example.org"))?;
    verifier.ready().await; // before that it refuses everything
    let layer = Layer::demanding(verifier, |request| {
        Demand::new("read").on(request.uri.path().trim_start_matches('/'))
    });
    let router = Router::new().route("/customers/{id}", get(customer).layer(layer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}

async fn customer(Path(id): Path<String>, Extension(claims): Extension<Claims>) -> String {
    format!("customer {id}, for {}\n", claims.client_id)
}
