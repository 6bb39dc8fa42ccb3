//! Generates the contract from its protobuf files. Needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    {
        use prost::Message as _;
        const FILES: [&str; 9] = [
            "levee/v1/vocabulary.proto",
            "levee/v1/zones.proto",
            "levee/v1/incidents.proto",
            "levee/v1/mitigations.proto",
            "levee/v1/runbooks.proto",
            "levee/v1/captures.proto",
            "levee/v1/system.proto",
            "levee/dataplane/v1/event.proto",
            "levee/dataplane/v1/dataplane.proto",
        ];
        let files = protox::compile(FILES, ["proto"])?;
        // For reflection, the reference in docs/, and the test of who may call what.
        let folder = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
        std::fs::write(folder.join("descriptors.bin"), files.encode_to_vec())?;
        // Ordered maps: the same message is the same bytes and the same text.
        tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    }
    Ok(())
}
