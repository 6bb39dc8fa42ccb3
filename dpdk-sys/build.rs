//! Generates the bindings with bindgen and compiles libdpdk's inline functions, which bindgen wraps, with the C
//! compiler. Nothing generated is committed.

use std::env;
use std::path::{Path, PathBuf};

use bindgen::callbacks::{IntKind, ParseCallbacks};

/// The only release series whose structure layouts the safe layer was checked against. README.md says what newer ones need.
const DPDK_SERIES: std::ops::Range<&str> = "22.11".."23.0";

/// Every function the safe layer calls. A tight list keeps the build at seconds: `rte_.*` takes 38 of them.
const FUNCTIONS: &[&str] = &[
    "levee_errno",
    "rte_dev_probe",
    "rte_eal_alarm_set",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_init",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_rss_reta_update",
    "rte_eth_dev_rx_offload_name",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_tx_offload_name",
    "rte_eth_find_next",
    "rte_eth_link_get_nowait",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_burst",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_burst",
    "rte_eth_tx_queue_setup",
    "rte_get_tsc_hz",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_linearize",
    "rte_pktmbuf_pool_create",
    "rte_rdtsc",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
];

const CONSTANTS: &[&str] = &[
    "LEVEE_.*",
    "RTE_ETH_MQ_RX_RSS",
    "RTE_ETH_RETA_GROUP_SIZE",
    "RTE_ETH_LINK_.*",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_ETH_SPEED_NUM_.*",
    "RTE_MAX_ETHPORTS",
    "RTE_MBUF_F_RX_.*",
    "RTE_MEMPOOL_NAMESIZE",
    "RTE_PKTMBUF_HEADROOM",
    "SOCKET_ID_ANY",
];

/// Mbuf flags are bits of a `u64` field, whatever the size of each one's value.
#[derive(Debug)]
struct FlagsAreU64;

impl ParseCallbacks for FlagsAreU64 {
    fn int_macro(&self, name: &str, _value: i64) -> Option<IntKind> {
        name.starts_with("RTE_MBUF_F_").then_some(IntKind::U64)
    }
}

fn main() {
    if let Err(lines) = build() {
        for line in lines {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<(), Vec<String>> {
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-changed=build.rs");
    let dpdk = pkg_config::Config::new().range_version(DPDK_SERIES).probe("libdpdk").map_err(|error| {
        missing("DPDK 22.11 (libdpdk) not found through pkg-config", error.to_string().lines().next().unwrap_or(""))
    })?;
    // bindgen panics when it cannot load libclang; asking for the version finds out in a way that can be caught.
    if !libclang_loads() {
        return Err(missing("libclang not found, which generating the bindings needs", ""));
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| vec!["OUT_DIR is not set: build with cargo".into()])?);
    let static_functions = out.join("static_fns.c");
    generate(&dpdk.include_paths, &out, &static_functions)?;
    compile(&dpdk.include_paths, &static_functions)
}

fn missing(what: &str, detail: &str) -> Vec<String> {
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    vec![format!("{what}{detail}; on Debian 12: apt-get install libdpdk-dev libclang-dev pkg-config")]
}

fn libclang_loads() -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let loads = std::panic::catch_unwind(bindgen::clang_version).is_ok();
    std::panic::set_hook(hook);
    loads
}

fn generate(include_paths: &[PathBuf], out: &Path, static_functions: &Path) -> Result<(), Vec<String>> {
    let bindings = bindgen::Builder::default()
        .header("wrapper.h")
        // These two are in `pkg-config --cflags`, but the pkg-config crate hands on include paths only.
        .clang_args(["-include", "rte_config.h"])
        .clang_args(baseline_cpu().map(|cpu| format!("-march={cpu}")))
        .clang_args(include_paths.iter().map(|path| format!("-I{}", path.display())))
        .rust_edition(bindgen::RustEdition::Edition2024)
        .wrap_unsafe_ops(true)
        .use_core()
        .generate_comments(false)
        .derive_debug(false)
        .derive_default(false)
        .layout_tests(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .wrap_static_fns(true)
        .wrap_static_fns_path(static_functions)
        .allowlist_function(FUNCTIONS.join("|"))
        .allowlist_var(CONSTANTS.join("|"))
        // Packed structures that hold aligned ones, and compiler types: Rust cannot express them and we do not read them.
        .opaque_type("rte_arp_(hdr|ipv4)|rte_l2tpv2_.*|rte_gtp_.*")
        .blocklist_type("__tile.*|max_align_t")
        .parse_callbacks(Box::new(FlagsAreU64))
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .generate()
        .map_err(|error| vec![format!("bindgen could not read DPDK's headers: {error}")])?;
    bindings
        .write_to_file(out.join("bindings.rs"))
        .map_err(|error| vec![format!("cannot write bindings.rs to {}: {error}", out.display())])
}

fn compile(include_paths: &[PathBuf], static_functions: &Path) -> Result<(), Vec<String>> {
    let mut build = cc::Build::new();
    build.file(static_functions).include(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).includes(include_paths);
    build.flag("-include").flag("rte_config.h").opt_level(3).warnings(false);
    if let Some(cpu) = baseline_cpu() {
        build.flag(format!("-march={cpu}"));
    }
    build
        .try_compile("dpdk_static_fns")
        .map_err(|error| vec![format!("the C compiler refused DPDK's inline functions: {error}")])
}

/// What Debian compiles DPDK for (corei7, SSE4.2). `native` would tie a package to the machine that built it.
fn baseline_cpu() -> Option<&'static str> {
    (env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64")).then_some("x86-64-v2")
}
