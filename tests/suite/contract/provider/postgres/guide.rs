//! The guide, held to the code: what it shows is read, and the provider accepts it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dayfly::app::providers::{Ambient, build};
use dayfly::clock::SystemClock;
use dayfly::config;
use dayfly::entropy::OsEntropy;
use dayfly::keys::Algorithm;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::registry::files;

fn block(beginning: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/guides/postgres.md")).unwrap();
    let mut blocks = page.split("```toml\n").skip(1);
    let found = blocks.find(|block| block.starts_with(beginning)).unwrap();
    found.split("```").next().unwrap().to_owned()
}

#[tokio::test]
async fn the_provider_and_the_tool_of_the_guide_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    // Beside the shipped ones, as who follows the guide would put it.
    for entry in fs::read_dir(shipped.join("tools")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(folder.path().join("orders.toml"), block("name = \"orders\"")).unwrap();
    let loaded = files::load(&shipped.join("agents"), folder.path()).unwrap();
    let tool = loaded.registry.tool(&"orders".parse().unwrap()).unwrap();

    // There is no server here whose authority it could be.
    let provider = block("[[provider]]").replace("ca_file = \"orders-db.ca.pem\"", "danger_plaintext = true");
    let text = format!("{provider}\n[[identity.trust_domain]]\nname = \"a\"\nbundle_file = \"b\"\n");
    let config = config::parse("dayfly.toml", &shipped, &text).unwrap();
    let entropy = OsEntropy::new();
    let signer = RingSigner::generate(Algorithm::Es256, &entropy).unwrap();
    let ambient = Ambient {
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(entropy),
        keys: Arc::new(KeyRing::of(Arc::new(signer))),
    };
    let providers = build(&config, &ambient).unwrap();
    providers
        .get(&tool.binding.provider)
        .unwrap()
        .accepts(tool)
        .unwrap();
}
