//! Generates the contract from its protobuf files. Needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    {
        let files = protox::compile(
            ["levee/v1/vocabulary.proto", "levee/dataplane/v1/event.proto", "levee/dataplane/v1/dataplane.proto"],
            ["proto"],
        )?;
        // Ordered maps: the same message is the same bytes and the same text.
        tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    }
    Ok(())
}
