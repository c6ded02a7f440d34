//! Who may call what, how calls reach other nodes, and what a worker needs to get its certificate.

use std::net::SocketAddr;

use simulators::faults::Fault;
use simulators::machine::Machines as _;
use talos::api::{AllowedTargets, Connector, cosi};
use talos::config::generate::Role;
use talos::pki;
use talos::proto::cosi::resource::state_client::StateClient;
use talos::proto::cosi::resource::{GetRequest, ListRequest, WatchRequest};
use talos::proto::machine::machine_service_client::MachineServiceClient;
use talos::proto::securityapi::CertificateRequest;
use talos::proto::securityapi::security_service_client::SecurityServiceClient;
use tonic::{Code, Request};

use crate::harness::{Lab, bootstrap, channel, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_forwarded_by_control_planes_and_refused_by_workers() {
    let lab = Lab::new("v1.13.9");
    lab.cluster("v1.13.9", 1).await;
    let admin = lab.credentials(pki::Role::Admin);
    let mut machine = MachineServiceClient::new(channel(&lab, 1, &admin).await);

    // One node: the reply comes back untouched.
    let mut one = Request::new(());
    one.metadata_mut().insert("node", lab.address(4).to_string().parse().unwrap());
    let reply = machine.hostname(one).await.unwrap().into_inner();
    assert_eq!((reply.messages.len(), &*reply.messages[0].hostname), (1, "demo-4"));
    assert!(reply.messages[0].metadata.is_none());

    // Several nodes, one of them absent: the call succeeds and the failure stands in its message.
    let mut many = Request::new(());
    for number in [2, 4, 77] {
        many.metadata_mut().append("nodes", lab.address(number).to_string().parse().unwrap());
    }
    let reply = machine.hostname(many).await.unwrap().into_inner();
    let seen: Vec<_> = reply.messages.iter().map(|message| message.hostname.as_str()).collect();
    assert_eq!(seen, ["demo-2", "demo-4", ""]);
    let failed = reply.messages[2].metadata.as_ref().unwrap();
    assert_eq!(failed.hostname, lab.address(77).to_string());
    assert_eq!(failed.status.as_ref().unwrap().code, i32::from(Code::Unavailable as u8));

    // COSI cannot be aggregated; a worker forwards nothing.
    let mut state = StateClient::new(channel(&lab, 1, &admin).await);
    let mut list = Request::new(ListRequest::default());
    list.metadata_mut().append("nodes", lab.address(2).to_string().parse().unwrap());
    assert_eq!(state.list(list).await.unwrap_err().code(), Code::InvalidArgument);
    let mut worker = MachineServiceClient::new(channel(&lab, 4, &admin).await);
    let mut elsewhere = Request::new(());
    elsewhere.metadata_mut().insert("node", lab.address(1).to_string().parse().unwrap());
    assert_eq!(worker.hostname(elsewhere).await.unwrap_err().message(), "no request forwarding");

    readers_see_what_is_not_secret(&lab).await;
    resources_follow_the_cluster(&lab).await;
    faults_hit_single_calls(&lab).await;
}

async fn readers_see_what_is_not_secret(lab: &Lab) {
    let reader = lab.secure_as(1, pki::Role::Reader).await;
    let refused = reader.reboot().await.unwrap_err().to_string();
    assert!(refused.contains("not authorized") && refused.contains("PermissionDenied"), "{refused}");
    assert!(reader.kubeconfig().await.is_err());
    let mut state = StateClient::new(channel(lab, 1, &lab.credentials(pki::Role::Reader)).await);
    let get = |namespace: &str, kind: &str, id: &str| GetRequest {
        namespace: namespace.into(),
        r#type: kind.into(),
        id: id.into(),
        options: None,
    };
    let secret = state.get(get("secrets", "OSRootSecrets.secrets.talos.dev", "os")).await.unwrap_err();
    assert_eq!(secret.code(), Code::PermissionDenied);
    let absent = state.get(get("network", "LinkStatuses.net.talos.dev", "nope")).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    let definition = get("meta", "ResourceDefinitions.meta.cosi.dev", "members.cluster.talos.dev");
    let definition = state.get(definition).await.unwrap().into_inner().resource.unwrap().spec.unwrap();
    assert!(definition.yaml_spec.contains("displayType: Member\n"), "{}", definition.yaml_spec);
    let mut admin = StateClient::new(channel(lab, 1, &lab.credentials(pki::Role::Admin)).await);
    let config = admin.get(get("config", "MachineConfigs.config.talos.dev", "v1alpha1")).await.unwrap().into_inner();
    let yaml = config.resource.unwrap().spec.unwrap().yaml_spec;
    assert!(yaml.starts_with("|\n    version: v1alpha1\n"), "{}", &yaml[..40]);
}

async fn resources_follow_the_cluster(lab: &Lab) {
    let admin = lab.secure(1).await;
    until("all members are discovered", || async {
        (admin.list::<cosi::Member>().await.ok()?.len() == 4).then_some(())
    })
    .await;
    until("static pods are published", || async {
        (admin.list::<cosi::StaticPodStatus>().await.ok()?.len() == 3).then_some(())
    })
    .await;
    let mut state = StateClient::new(channel(lab, 1, &lab.credentials(pki::Role::Admin)).await);
    let request = WatchRequest {
        namespace: "runtime".into(),
        r#type: "MachineStatuses.runtime.talos.dev".into(),
        id: Some("machine".into()),
        ..WatchRequest::default()
    };
    let mut frames = state.watch(request).await.unwrap().into_inner();
    assert!(frames.message().await.unwrap().unwrap().event.is_empty());
    let first = frames.message().await.unwrap().unwrap();
    assert!(first.event[0].resource.as_ref().unwrap().spec.as_ref().unwrap().yaml_spec.starts_with("stage: running\n"));
}

async fn faults_hit_single_calls(lab: &Lab) {
    let client = lab.secure(2).await;
    lab.faults.add(
        Fault::parse(&format!("talos {} /machine.MachineService/Version=error:8:try later", lab.address(2))).unwrap(),
    );
    let refused = client.version().await.unwrap_err().to_string();
    assert!(refused.contains("try later") && refused.contains("ResourceExhausted"), "{refused}");
    client.version().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_the_right_token_gets_no_certificate() {
    let mut lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    bootstrap(&lab.secure(1).await).await;
    let tls = tonic::transport::ClientTlsConfig::new()
        .domain_name(lab.address(1).to_string())
        .ca_certificate(tonic::transport::Certificate::from_pem(&lab.bundle.os.crt));
    let uri = format!("https://{}", SocketAddr::new(lab.address(1), 50001));
    let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap();
    let channel = until("trustd listens", || async { endpoint.connect().await.ok() }).await;
    let mut request = Request::new(CertificateRequest { csr: Vec::new() });
    request.metadata_mut().insert("token", "wrong".parse().unwrap());
    let refused = SecurityServiceClient::new(channel).certificate(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    // A worker with another token never serves its API; with the right one it does.
    let right = std::mem::replace(&mut lab.bundle.trustd_token, "aaaaaa.bbbbbbbbbbbbbbbb".to_owned().into());
    lab.join(lab.machine(4, "v1.13.9"), 4, Role::Worker).await;
    until("the refusal is on the console", || async {
        lab.nodes.console(104).iter().any(|line| line.contains("Unauthenticated")).then_some(())
    })
    .await;
    let connector = Connector::new(AllowedTargets::loopback());
    assert!(connector.secure(lab.address(4), &lab.credentials(pki::Role::Admin)).await.is_err());
    lab.bundle.trustd_token = right;
    lab.join(lab.machine(5, "v1.13.9"), 5, Role::Worker).await;
    lab.secure(5).await;
    lab.running(5).await;
    assert_eq!(lab.nodes.guest(104).unwrap().state, "booting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn talos_1_12_offers_little_in_maintenance() {
    let lab = Lab::new("v1.12.11");
    lab.nodes.power_on(lab.machine(1, "v1.12.11"));
    let client = lab.maintenance(1).await;
    let refused = client.version().await.unwrap_err().to_string();
    assert!(refused.contains("API is not implemented in maintenance mode"), "{refused}");
    assert!(!client.list::<cosi::Disk>().await.unwrap().is_empty());
    lab.join(lab.machine(2, "v1.12.11"), 2, Role::ControlPlane).await;
    bootstrap(&lab.secure(2).await).await;
    lab.running(2).await;
}
