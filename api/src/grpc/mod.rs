//! The contract between the planes: generated messages and services, and their conversion from and to the vocabulary.
//!
//! What comes over the contract is not trusted: every conversion into the vocabulary checks what the vocabulary
//! promises, and its error names the field. See `proto/` for what each message means.

mod convert;
mod identity;
mod pieces;
pub mod socket;

pub use convert::{FieldError, FilterRequest, filter_in_force};
pub use pieces::{MAX_PIECE_BYTES, pieces, zone_in_pieces};

/// Version of the contract that this program speaks.
pub const VERSION: dataplane::v1::Version = dataplane::v1::Version { major: 1, minor: 1 };

/// All of the contract as a `google.protobuf.FileDescriptorSet`, comments included: for reflection and the reference.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `levee.v1`: the vocabulary as messages, and the services for operators.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("levee.v1");
}

/// Package `levee.dataplane`.
pub mod dataplane {
    /// Package `levee.dataplane.v1`: the dataplane's service and its messages.
    #[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("levee.dataplane.v1");
    }
}

#[cfg(test)]
mod tests;
