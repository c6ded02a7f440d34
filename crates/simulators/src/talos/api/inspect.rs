//! InspectService: which controllers read and write which resources (talos.md 3.9).

use talos::proto::inspect::inspect_service_server::InspectService;
use talos::proto::inspect::{
    ControllerDependencyEdge, ControllerRuntimeDependenciesResponse, ControllerRuntimeDependency, DependencyEdgeType,
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::talos::cosi::schema;
use crate::talos::release::Line;

#[tonic::async_trait]
impl InspectService for Api {
    async fn controller_runtime_dependencies(
        &self,
        _: Request<()>,
    ) -> Result<Response<ControllerRuntimeDependenciesResponse>, Status> {
        let edges = edges(self.boot.release.line);
        let messages = vec![ControllerRuntimeDependency { metadata: None, edges }];
        Ok(Response::new(ControllerRuntimeDependenciesResponse { messages }))
    }
}

/// The edges over resource types that this release has.
fn edges(line: Line) -> Vec<ControllerDependencyEdge> {
    let rows = include_str!("dependencies.tsv").lines().filter(|row| !row.starts_with('#'));
    rows.filter_map(edge).filter(|edge| schema::definition(&edge.resource_type, line).is_some()).collect()
}

fn edge(row: &str) -> Option<ControllerDependencyEdge> {
    let columns: Vec<&str> = row.split('\t').collect();
    let [controller, kind, namespace, resource, id] = columns[..] else { return None };
    let kind = match kind {
        "exclusive" => DependencyEdgeType::OutputExclusive,
        "shared" => DependencyEdgeType::OutputShared,
        "strong" => DependencyEdgeType::InputStrong,
        "weak" => DependencyEdgeType::InputWeak,
        "destroy-ready" => DependencyEdgeType::InputDestroyReady,
        _ => return None,
    };
    Some(ControllerDependencyEdge {
        controller_name: controller.to_owned(),
        edge_type: kind.into(),
        resource_namespace: namespace.to_owned(),
        resource_type: resource.to_owned(),
        resource_id: id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_an_edge_and_releases_differ() {
        let rows = include_str!("dependencies.tsv").lines().filter(|row| !row.starts_with('#')).count();
        assert_eq!(include_str!("dependencies.tsv").lines().filter_map(edge).count(), rows);
        let newest = edges(Line::V1_14);
        assert_eq!(newest.len(), rows);
        assert!(edges(Line::V1_12).len() < rows, "unattended installs came with 1.14");
        let writes = |edge: &&ControllerDependencyEdge| edge.edge_type() == DependencyEdgeType::OutputExclusive;
        let machine_status =
            newest.iter().filter(writes).find(|edge| edge.resource_type.starts_with("MachineStatuses"));
        assert_eq!(machine_status.unwrap().controller_name, "runtime.MachineStatusController");
    }
}
