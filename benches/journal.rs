//! What a durable record costs: one appender, and 64 that share the syncs. On the disk of the target
//! directory; the sync of the disk is nearly all of it.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput};
use dayfly::journal::Journal as _;
use dayfly::journal::file::{FileJournal, Options};
use dayfly::journal::merkle::{Frontier, Hash};
use dayfly::journal::note::NoteSigner;
use dayfly::journal::record::{Attested, Record, Result as Outcome, Verb};
use dayfly::model::time::Timestamp;
use futures_util::future::join_all;

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// About what an issue leaves: some 500 bytes.
fn record() -> Record {
    let mut record = Record::new(
        Verb::Issue,
        Outcome::Permitted,
        Timestamp::from_secs(1_795_329_000),
    );
    record.attested = Some(Attested {
        authority: "spiffe://example.org".into(),
        digest: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328".into(),
        kind: "jwt_svid".into(),
        subject: "spiffe://example.org/ns/agents/sa/support-bot".into(),
    });
    record.agent = "support-bot".parse().ok();
    record.tool = "crm".parse().ok();
    record.purpose = Some("Answer the question of customer 42 about a late delivery".into());
    record.reason = Some("permitted by support-may-read-customers".into());
    record
}

fn append(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let signer = NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap();
    let journal = FileJournal::open(dir.path(), Options::default(), signer).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut group = c.benchmark_group("append");
    for appenders in [1_u64, 64] {
        group.throughput(Throughput::Elements(appenders));
        group.bench_function(format!("{appenders}"), |b| {
            b.to_async(&runtime)
                .iter(|| join_all((0..appenders).map(|_| journal.append(record().into()))));
        });
    }
    group.finish();
}

fn work(c: &mut Criterion) {
    let record = record();
    c.bench_function("line and leaf", |b| {
        b.iter(|| {
            black_box(&record)
                .to_line()
                .map(|line| Hash::leaf(line.as_bytes()))
        });
    });
    c.bench_function("push", |b| {
        let mut tree = Frontier::new();
        b.iter(|| tree.push(black_box(Hash([7; 32]))));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    append(&mut criterion);
    work(&mut criterion);
    criterion.final_summary();
}
