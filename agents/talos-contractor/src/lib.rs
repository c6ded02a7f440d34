//! talos-contractor: owns clusters. It makes them of machines in Talos maintenance mode, and gives them up again.

pub mod actions;
pub mod app;
pub mod background;
pub mod certificates;
pub mod drain;
pub mod failure;
pub mod health;
pub mod inventory;
pub mod issued;
pub mod kept;
pub mod key_pool;
pub mod kubernetes;
pub mod machine_config;
pub mod manifest;
pub mod playbooks;
pub mod pressure;
pub mod proof;
pub mod queries;
pub mod reach;
pub mod sense;
pub mod settings;
mod told;
pub mod waiting;
