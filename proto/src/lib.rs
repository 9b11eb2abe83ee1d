//! The messages and services on Baton's wires, generated from `proto/*.proto`.
//!
//! [`etcdserverpb`], [`mvccpb`], [`authpb`], [`v3lockpb`] and [`v3electionpb`] are the etcd v3 API:
//! names and numbers in them are a contract with every etcd client. [`log`] is what stands in the
//! replicated log, [`peer`] how members talk to each other. `bytes` fields are [`bytes::Bytes`]
//! slices of the frame they came in.
//!
//! [`bytes::Bytes`]: https://docs.rs/bytes

/// Includes one generated package. Generated code carries the comments of the `.proto` files.
macro_rules! package {
    ($name:literal) => {
        tonic::include_proto!($name);
    };
}

/// Key-value, watch, lease, cluster, maintenance and auth services.
#[allow(missing_docs, clippy::all)]
pub mod etcdserverpb {
    package!("etcdserverpb");
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.serde.rs"));
}
/// Keys and events.
#[allow(missing_docs, clippy::all)]
pub mod mvccpb {
    package!("mvccpb");
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/mvccpb.serde.rs"));
}
/// Users, roles, permissions.
#[allow(missing_docs, clippy::all)]
pub mod authpb {
    package!("authpb");
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/authpb.serde.rs"));
}
/// The lock service.
#[allow(missing_docs, clippy::all)]
pub mod v3lockpb {
    package!("v3lockpb");
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.serde.rs"));
}
/// The election service.
#[allow(missing_docs, clippy::all)]
pub mod v3electionpb {
    package!("v3electionpb");
    #[cfg(feature = "json")]
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.serde.rs"));
}
mod baton {
    pub mod log {
        #[allow(missing_docs, clippy::all)]
        pub mod v1 {
            package!("baton.log.v1");
            #[cfg(feature = "json")]
            include!(concat!(env!("OUT_DIR"), "/baton.log.v1.serde.rs"));
        }
    }
    pub mod peer {
        #[allow(missing_docs, clippy::all)]
        pub mod v1 {
            package!("baton.peer.v1");
        }
    }
}
pub use baton::log::v1 as log;
pub use baton::peer::v1 as peer;
