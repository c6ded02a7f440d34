//! What `proto/` compiles to: messages, clients and servers, in modules named like the protobuf packages.

#![allow(
    clippy::all,
    clippy::use_self,
    rustdoc::invalid_html_tags,
    unreachable_pub,
    reason = "generated code keeps its own style"
)]

include!(concat!(env!("OUT_DIR"), "/talos_api.rs"));
