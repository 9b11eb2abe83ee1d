//! Compiles the `.proto` files with protox, so that no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["v3lock.proto", "v3election.proto", "peer.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    #[cfg(feature = "json")]
    generate_json(&descriptors)?;
    // Keys and values are slices of the received frame, never copies.
    let mut config = prost_build_config();
    config.bytes(["."]);
    // Ordered, so that encoding the same message twice gives the same bytes.
    config.btree_map(["."]);
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// The proto3 JSON mapping of the public wire and of what stands in the log, beside the generated messages.
#[cfg(feature = "json")]
fn generate_json(descriptors: &prost_types::FileDescriptorSet) -> std::io::Result<()> {
    use prost::Message;
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors.encode_to_vec())?
        .btree_map(["."])
        .build(&[
            ".etcdserverpb",
            ".mvccpb",
            ".authpb",
            ".v3lockpb",
            ".v3electionpb",
            ".baton.log",
        ])
}

fn prost_build_config() -> tonic_prost_build::Config {
    tonic_prost_build::Config::new()
}
