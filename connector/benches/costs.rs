//! How long a message takes on the hot paths: `cargo bench -p connector`. The same paths as counted in `tests/costs`.

#[path = "../tests/costs/workloads.rs"]
mod workloads;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use workloads::{NAMES, Workload};

fn costs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    for name in NAMES {
        let mut workload = Workload::named(name);
        group.throughput(Throughput::Elements(Workload::messages_of(name)));
        group.bench_function(name, |bench| bench.iter(|| (workload.run)()));
    }
    group.finish();
}

criterion_group!(benches, costs);
criterion_main!(benches);
