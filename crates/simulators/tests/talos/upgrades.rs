//! What `talosctl upgrade-k8s` reads and awaits, and what `inspect` and `pcap` show (talos.md 3.9 and 8).

use futures::StreamExt as _;
use secrecy::ExposeSecret as _;
use talos::api::ApplyMode;
use talos::config::generate::Role;
use talos::pki;
use talos::proto::cosi::resource::state_client::StateClient;
use talos::proto::cosi::resource::{EventType, GetRequest, WatchRequest};
use talos::proto::inspect::inspect_service_client::InspectServiceClient;
use talos::proto::machine::PacketCaptureRequest;
use talos::proto::machine::machine_service_client::MachineServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{Lab, bootstrap, channel, until};

/// The version and the YAML of a resource.
async fn get(state: &StateClient<Channel>, (namespace, kind, id): (&str, &str, &str)) -> Option<(String, String)> {
    let request = GetRequest { namespace: namespace.into(), r#type: kind.into(), id: id.into(), options: None };
    let resource = state.clone().get(request).await.ok()?.into_inner().resource?;
    Some((resource.metadata?.version, resource.spec?.yaml_spec))
}

const API_SERVER: (&str, &str, &str) = ("controlplane", "APIServerConfigs.kubernetes.talos.dev", "kube-apiserver");
const STATIC_POD: (&str, &str, &str) = ("k8s", "StaticPods.kubernetes.talos.dev", "kube-apiserver");
const KUBELET: (&str, &str, &str) = ("k8s", "KubeletSpecs.kubernetes.talos.dev", "kubelet");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_restarts_the_component_it_is_of() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    let client = lab.secure(1).await;
    bootstrap(&client).await;
    lab.running(1).await;
    let state = StateClient::new(channel(&lab, 1, &lab.credentials(pki::Role::Admin)).await);
    let (version, pod) = get(&state, STATIC_POD).await.unwrap();
    assert_eq!(version, "1");
    assert!(pod.contains("- /usr/local/bin/kube-apiserver\n") && pod.contains("--secure-port=6443"), "{pod}");
    let kube_proxy = ("controlplane", "Manifests.kubernetes.talos.dev", "10-kube-proxy");
    assert!(get(&state, kube_proxy).await.unwrap().1.contains("kind: DaemonSet"));

    let config = lab.config(1, Role::ControlPlane).expose_secret().to_owned();
    let image = |name: &str| {
        let line = config.lines().find(|line| line.contains(&format!("/{name}:v"))).unwrap().trim();
        line.strip_prefix("image: ").unwrap().to_owned()
    };
    let newer = |config: &str, image: &str| config.replace(image, &format!("{image}-rc.0"));
    let before = get(&state, API_SERVER).await.unwrap().0;
    let changed = newer(&config, &image("kube-apiserver"));
    client.apply_configuration(&changed.clone().into(), ApplyMode::NoReboot).await.unwrap();
    let after = until("the API server's resource changed", || async {
        Some(get(&state, API_SERVER).await?.0).filter(|version| *version != before)
    })
    .await;
    let mirrored = ("k8s", "StaticPods.kubernetes.talos.dev", "kube-apiserver");
    let pod = until("the static pod follows", || async {
        Some(get(&state, mirrored).await?.1).filter(|pod| pod.contains("-rc.0"))
    })
    .await;
    assert!(pod.contains(&format!("talos.dev/config-version: \"{after}\"")), "{pod}");

    let request = WatchRequest {
        namespace: "runtime".into(),
        r#type: "Services.v1alpha1.talos.dev".into(),
        id: Some("kubelet".into()),
        ..WatchRequest::default()
    };
    let frames = state.clone().watch(request).await.unwrap().into_inner();
    let changed = newer(&changed, &image("kubelet"));
    client.apply_configuration(&changed.into(), ApplyMode::NoReboot).await.unwrap();
    let (spec_version, spec) = get(&state, KUBELET).await.unwrap();
    assert!(spec_version == "2" && spec.contains("-rc.0"), "published before the call returns: {spec}");
    let mut events = frames.flat_map(|frame| futures::stream::iter(frame.unwrap().event));
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event.event_type());
        let spec = event.resource.and_then(|resource| resource.spec).unwrap_or_default();
        let again = seen.len() > 2 && seen.contains(&EventType::Destroyed);
        if again && spec.yaml_spec.contains("healthy: true") {
            break;
        }
    }
    assert_eq!(seen[..3], [EventType::Created, EventType::Destroyed, EventType::Created]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_are_inspected_and_packets_captured() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    lab.secure(1).await;
    let channel = channel(&lab, 1, &lab.credentials(pki::Role::Operator)).await;
    let answer = InspectServiceClient::new(channel.clone()).controller_runtime_dependencies(()).await.unwrap();
    let edges = &answer.get_ref().messages[0].edges;
    assert!(
        edges.iter().any(|edge| edge.controller_name == "k8s.KubeletSpecController" && edge.resource_id == "kubelet")
    );
    let mut machine = MachineServiceClient::new(channel);
    let capture = |interface: &str| PacketCaptureRequest { interface: interface.into(), ..Default::default() };
    let refused = machine.packet_capture(capture("eth9")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "interface \"eth9\" not found"));
    let mut frames = machine.packet_capture(capture("ens18")).await.unwrap().into_inner();
    let header = frames.message().await.unwrap().unwrap().bytes;
    assert_eq!((header.len(), &header[..4]), (24, &[0xD4, 0xC3, 0xB2, 0xA1][..]));
    let packets = frames.message().await.unwrap().unwrap().bytes;
    assert_eq!(packets.len(), 2 * (16 + 54), "a SYN and its answer");
}
