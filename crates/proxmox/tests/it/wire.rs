//! The wire facts of proxmox.md section 1, checked against a server that answers with canned bytes.

use std::time::Duration;

use proxmox::{
    Client, Upid, VmId,
    error::{Advice, Kind},
    form::Params,
    options::Credentials,
    tasks::Success,
    trust::{Fingerprint, Trust},
};
use tokio::net::TcpListener;

use crate::script::{Answer, Script, ok, refuse};

const VERSION: &str = r#"{"data":{"version":"9.1.3","release":"9.1","repoid":"deadbeef"}}"#;
const LOGIN: &str = r#"{"data":{"ticket":"PVE:root@pam:65F00000::ab+/==","CSRFPreventionToken":"65F00000:xy"}}"#;
const LOGIN2: &str = r#"{"data":{"ticket":"PVE:root@pam:65F00001::new/==","CSRFPreventionToken":"65F00001:zz"}}"#;
const NULL: &str = r#"{"data":null}"#;

#[tokio::test]
async fn a_change_is_a_form_with_a_length_and_the_token() {
    let mut script = Script::start(vec![ok(NULL)]).await;
    let client = Client::new(script.options()).unwrap();
    let params = Params::default().with("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0").with("tags", "a;b");
    client.set_vm_config("pve1", VmId(100), &params, Some("abc")).await.unwrap();
    let (_, request) = script.request().await;
    assert!(request.starts_with("PUT /api2/json/nodes/pve1/qemu/100/config HTTP/1.1\r\n"), "{request}");
    let head = request.to_ascii_lowercase();
    assert!(head.contains("authorization: pveapitoken=cortex@pve!infra=0000-secret\r\n"));
    assert!(head.contains("content-type: application/x-www-form-urlencoded\r\n"));
    assert!(!head.contains("transfer-encoding") && head.contains("content-length: "));
    assert!(request.ends_with("net0=virtio%3DBC%3A24%3A11%3A00%3A00%3A01%2Cbridge%3Dvmbr0&tags=a%3Bb&digest=abc"));
}

#[tokio::test]
async fn delete_arguments_travel_in_the_query_without_a_body() {
    let upid = r#"{"data":"UPID:pve1:00000001:00000002:65F00000:qmdestroy:100:a@pve!t:"}"#;
    let mut script = Script::start(vec![ok(upid)]).await;
    let client = Client::new(script.options()).unwrap();
    assert_eq!(client.destroy_vm("pve1", VmId(100)).await.unwrap().kind, "qmdestroy");
    let (_, request) = script.request().await;
    assert!(request.starts_with("DELETE /api2/json/nodes/pve1/qemu/100?purge=1 HTTP/1.1"));
    assert!(!request.to_ascii_lowercase().contains("content-type"));
}

#[tokio::test]
async fn the_status_line_tells_what_an_empty_body_does_not() {
    let script = Script::start(vec![refuse(595, "No route to host", "")]).await;
    let client = Client::new(script.options()).unwrap();
    let error = client.vm_status("pve3", VmId(100)).await.unwrap_err();
    assert_eq!((error.kind.clone(), error.status), (Kind::NodeOffline, Some(595)));
    assert!(error.to_string().contains("No route to host"), "{error}");
}

#[tokio::test]
async fn an_old_body_without_message_leaves_the_reason_phrase() {
    let gone = "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist";
    let script = Script::start(vec![refuse(500, gone, NULL)]).await;
    let client = Client::new(script.options()).unwrap();
    assert!(client.vm_config("pve1", VmId(100)).await.unwrap_err().is_missing_vm());
}

#[tokio::test]
async fn a_connection_serves_until_a_failure_and_is_then_left() {
    let mut script =
        Script::start(vec![ok(VERSION), ok(VERSION), refuse(500, "VM is locked (clone)", NULL), ok(VERSION)]).await;
    let client = Client::new(script.options()).unwrap();
    client.version().await.unwrap();
    client.version().await.unwrap();
    assert_eq!(client.version().await.unwrap_err().kind, Kind::Locked("clone".into()));
    assert_eq!(client.version().await.unwrap().to_string(), "9.1");
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(script.request().await.0);
    }
    assert_eq!(connections, [1, 1, 1, 2]);
}

#[tokio::test]
async fn a_read_whose_reply_was_lost_is_asked_again_and_a_change_is_not() {
    let script = Script::start(vec![ok(VERSION), Answer::Drop, ok(VERSION), Answer::Drop]).await;
    let client = Client::new(script.options()).unwrap();
    client.version().await.unwrap();
    client.version().await.expect("a read may be repeated on a new connection");
    let error = client.start_vm("pve1", VmId(100)).await.unwrap_err();
    assert_eq!(error.kind, Kind::ReplyLost);
    assert!(error.may_have_run());
}

#[tokio::test]
async fn another_endpoint_takes_over_when_the_first_is_dead() {
    let script = Script::start(vec![ok(VERSION)]).await;
    let mut options = script.options();
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port is free").local_addr().unwrap();
    options.endpoints.insert(0, format!("https://{dead}").parse().unwrap());
    Client::new(options).unwrap().version().await.unwrap();
}

#[tokio::test]
async fn an_address_outside_the_allowed_targets_is_never_dialled() {
    let mut options = Script::start(vec![]).await.options();
    options.endpoints = vec!["https://192.168.1.10:8006".parse().unwrap()];
    let error = Client::new(options).unwrap().version().await.unwrap_err();
    assert_eq!(error.kind, Kind::TargetRefused);
    assert!(error.to_string().contains("127.0.0.0/8"), "{error}");
}

#[tokio::test]
async fn another_certificate_is_refused_and_its_fingerprint_named() {
    let script = Script::start(vec![ok(VERSION)]).await;
    let mut options = script.options();
    options.trust = Trust::Fingerprints(vec![Fingerprint::of(b"another")]);
    let error = Client::new(options).unwrap().version().await.unwrap_err();
    assert_eq!(error.kind, Kind::Untrusted);
    assert!(error.to_string().contains(&script.fingerprint.to_string()), "{error}");
}

#[tokio::test]
async fn a_refused_ticket_is_never_offered_in_place_of_the_password() {
    let no = || refuse(401, "Authentication failed!", "");
    let mut script = Script::start(vec![ok(LOGIN), no(), no(), no(), ok(LOGIN2), ok(NULL)]).await;
    let mut options = script.options();
    options.credentials = Credentials::parse("root@pam:secret").unwrap();
    let client = Client::new(options).unwrap();
    let error = client.resources().await.unwrap_err();
    assert_eq!(error.kind, Kind::Authentication, "the password was refused too");
    client.set_vm_config("pve1", VmId(100), &Params::default().with("cores", 2), None).await.unwrap();
    let mut sent = Vec::new();
    for _ in 0..6 {
        sent.push(script.request().await.1);
    }
    for login in [&sent[2], &sent[4]] {
        assert!(login.ends_with("username=root%40pam&password=secret"), "not the refused ticket: {login}");
    }
    assert!(sent[5].starts_with("PUT ") && sent[5].contains("new%2F"), "{}", sent[5]);
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_left_for_the_next_one() {
    let (hung, script) = (Script::start(vec![Answer::Hang]).await, Script::start(vec![ok(VERSION)]).await);
    let mut options = script.options();
    options.endpoints.insert(0, hung.options().endpoints[0].clone());
    options.trust = Trust::Fingerprints(vec![hung.fingerprint, script.fingerprint]);
    options.timeouts.request = Duration::from_millis(300);
    let client = Client::new(options).unwrap();
    let error = client.version().await.unwrap_err();
    assert_eq!((error.kind.clone(), error.advice()), (Kind::ReplyLost, Advice::Wait), "{error}");
    client.version().await.expect("the next endpoint is asked");
}

#[tokio::test]
async fn a_change_that_got_no_answer_is_looked_for_before_it_is_repeated() {
    let script = Script::start(vec![Answer::Hang]).await;
    let mut options = script.options();
    options.timeouts.request = Duration::from_millis(300);
    let error = Client::new(options).unwrap().start_vm("pve1", VmId(100)).await.unwrap_err();
    assert_eq!((error.kind.clone(), error.advice()), (Kind::ReplyLost, Advice::Retry), "{error}");
    assert!(error.may_have_run());
}

#[tokio::test]
async fn a_token_with_a_percent_sign_survives_proxmoxs_decoding() {
    let mut script = Script::start(vec![ok(VERSION)]).await;
    let mut options = script.options();
    options.credentials = Credentials::parse("50%25off@pve!t=s%3D").unwrap();
    Client::new(options).unwrap().version().await.unwrap();
    let (_, request) = script.request().await;
    assert!(request.contains("PVEAPIToken=50%2525off@pve!t=s%253D\r\n"), "{request}");
}

#[tokio::test]
async fn a_task_that_ends_with_warnings_is_a_success_and_its_failure_is_told_with_its_log() {
    let stopped = |exit: &str| ok(&format!(r#"{{"data":{{"status":"stopped","exitstatus":"{exit}"}}}}"#));
    let log = r#"{"total":2,"data":[{"n":2,"t":"TASK ERROR: lvcreate failed"},{"n":1,"t":"creating disk"}]}"#;
    let upid: Upid = "UPID:pve2:0003B1C2:12345678A:65F0ABCD:qmcreate:100:cortex@pve!infra:".parse().unwrap();
    let mut script = Script::start(vec![stopped("WARNINGS: 1"), ok(log), stopped("lvcreate failed"), ok(log)]).await;
    let client = Client::new(script.options()).unwrap();
    let patience = Duration::from_secs(5);
    assert_eq!(client.wait_for_task(&upid, patience).await.unwrap(), Success::Warnings(1));
    let error = client.wait_for_task(&upid, patience).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "task qmcreate 100 on pve2: lvcreate failed (log: creating disk | TASK ERROR: lvcreate failed)"
    );
    let (_, request) = script.request().await;
    let path = format!("GET /api2/json/nodes/pve2/tasks/{upid}/status HTTP/1.1\r\n");
    assert!(request.starts_with(&path), "asked at the task's own node: {request}");
}

#[tokio::test]
async fn a_password_becomes_a_ticket_that_is_renewed_when_refused() {
    let mut script =
        Script::start(vec![ok(LOGIN), refuse(401, "Authentication failed!", ""), ok(LOGIN), ok(NULL)]).await;
    let mut options = script.options();
    options.credentials = Credentials::parse("root@pam:pa ss;word=").unwrap();
    let client = Client::new(options).unwrap();
    let params = Params::default().with_flag("protection", true);
    client.set_vm_config("pve1", VmId(100), &params, None).await.unwrap();
    let (_, first) = script.request().await;
    assert!(first.ends_with("username=root%40pam&password=pa%20ss%3Bword%3D"), "{first}");
    let (_, refused) = script.request().await;
    assert!(refused.contains("PVEAuthCookie=PVE:root@pam:65F00000::ab%2B%2F%3D%3D"), "{refused}");
    assert!(refused.to_ascii_lowercase().contains("csrfpreventiontoken: 65f00000:xy\r\n"), "{refused}");
    script.request().await;
    assert!(script.request().await.1.starts_with("PUT "));
}
