//! infrastructure-contractor's playbooks, driven for real against the simulated Proxmox VE.

mod definition;
mod life;
mod playbooks;
mod template;
mod trouble;
mod world;
