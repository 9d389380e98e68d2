//! Every kernel of every table this machine has: `cargo bench --features bench --bench kernels [-- FILTER]`. Names are
//! `kernel/size/table`, so that a kernel's tables stand together; throughput is in items (rows, codes or columns: the scan's are
//! codes) a second, and with `BENCH_BYTES=1` in bytes.

use criterion::{Criterion, Throughput};
use std::time::Duration;
use vectorsphere::index::bench_doors;
use vectorsphere::index::kernels;

fn main() {
    let by_bytes = std::env::var_os("BENCH_BYTES").is_some();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .sample_size(30)
        .without_plots()
        .configure_from_args();
    for table in kernels::names() {
        for mut case in bench_doors::cases(table) {
            let mut group = criterion.benchmark_group(format!("{}/{}", case.kernel, case.size));
            group.throughput(if by_bytes { Throughput::Bytes(case.bytes) } else { Throughput::Elements(case.items) });
            group.bench_function(table, |bencher| bencher.iter(|| (case.run)()));
            group.finish();
        }
    }
    criterion.final_summary();
}
