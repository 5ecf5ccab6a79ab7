//! The settings of what the store may cost.

use runtime::cli::bytes;

/// What the store may cost.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StoreSettings {
    /// How much memory each Redis server should use at most: 1MiB to 1TiB. Nothing is refused beyond it, but the log, /readyz and
    /// the metrics warn well before. maxmemory of the server counts as such a bound, too, if it evicts nothing
    ///
    /// Without it: maxmemory alone counts.
    #[arg(
        id = "store.memory_budget",
        long = "store-memory-budget",
        value_parser = bytes::<u64>(1 << 20..=1 << 40),
        value_name = "BYTES"
    )]
    pub memory_budget: Option<u64>,
}
