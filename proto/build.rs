//! Generates the gRPC code with a compiler written in Rust: no `protoc` is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=sluice/v1/distribution.proto");
    let descriptors = protox::compile(["sluice/v1/distribution.proto"], ["."])?;
    // What is secret does not show itself.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .codec_path("crate::codec::SmallBuffers")
        .skip_debug(["TicketKeys", "EnrolRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
