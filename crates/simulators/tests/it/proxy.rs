//! `lab proxy` as a program of its own.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

/// Says back what it hears.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// The program, and what it says first.
async fn start(arguments: &[&str]) -> (Child, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg("proxy").args(arguments).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("it says where it listens");
    (child, serde_json::from_str(&line).unwrap())
}

#[tokio::test]
async fn a_proxy_alone_does_what_its_command_line_says_until_it_is_told_otherwise() {
    let to = echo().await.to_string();
    let harm = ["--delay", "80", "--cut", "half-close", "--after-bytes", "5", "--direction", "up"];
    let (listen, control) = (["--listen", "127.0.0.1:0"], ["--control", "127.0.0.1:0"]);
    let arguments = [&listen[..], &["--to", &to], &harm[..], &control[..]].concat();
    let (mut child, ready) = start(&arguments).await;
    let wanted = json!({ "delay_ms": 80, "cut": "half-close", "after_bytes": 5, "direction": "up" });
    assert_eq!((&ready["to"], &ready["harm"]), (&json!(to), &wanted));
    let say = async |text: &str| {
        let mut stream = TcpStream::connect(ready["listen"].as_str().unwrap()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        heard
    };
    let begun = Instant::now();
    assert_eq!(say("hello world").await, "hello");
    assert!(begun.elapsed() >= Duration::from_millis(80), "it was delayed");

    let client = reqwest::Client::new();
    let proxy = format!("{}/v1/proxies/1", ready["control"].as_str().unwrap());
    assert!(client.post(&proxy).json(&json!({})).send().await.unwrap().status().is_success());
    assert_eq!(say("hello world").await, "hello world");
    let shown: Value = client.get(&proxy).send().await.unwrap().json().await.unwrap();
    assert_eq!((&shown["to"], &shown["harm"]["cut"]), (&json!(to), &Value::Null));
    let asked = std::process::Command::new("kill").arg(child.id().unwrap().to_string()).status().unwrap();
    assert!(asked.success() && child.wait().await.unwrap().success(), "it ends well when it is asked to");
}

#[tokio::test]
async fn what_no_proxy_can_do_is_refused_with_what_it_can() {
    let arguments = ["proxy", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--cut", "explode"];
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("[possible values: close, reset, half-close, black-hole]"), "{said}");
}
