//! Fills a boot's COSI resources from what the node is and does (talos.md 4.3).

mod cluster;
mod hardware;
mod kubelet;
mod kubernetes;
mod network;
mod runtime;
mod secrets;
mod static_pods;

pub(crate) use self::cluster::{etcd_member, follow_discovery};
pub(crate) use self::hardware::{DiskView, disks, hardware, volumes};
pub(crate) use self::kubernetes::{STATIC_PODS, control_plane, kubernetes, ready_static_pods};
pub(crate) use self::network::network;
pub(crate) use self::runtime::{config, kernel_command_line, machine_status, meta_keys, time, unattended_install};
pub(crate) use self::secrets::secrets;
pub(crate) use self::static_pods::command as static_pod_command;
