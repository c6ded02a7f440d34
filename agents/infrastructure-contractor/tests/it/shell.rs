//! Root's shell on a hypervisor: performs `pveum` and `pvesm` lines through the API calls that they stand for.

use reqwest::{Certificate, Method, StatusCode};
use serde_json::Value;

use crate::world::World;

pub(crate) struct Shell {
    http: reqwest::Client,
    url: String,
    ticket: String,
    csrf: String,
}

impl Shell {
    pub(crate) async fn open(world: &World) -> Self {
        let authorities = Certificate::from_pem_bundle(world.proxmox.ca_pem().as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only(authorities).build().unwrap();
        let url = format!("{}/api2/json", world.proxmox.url());
        let login = [("username", "root@pam"), ("password", "lab")];
        let answer = http.post(format!("{url}/access/ticket")).form(&login).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let text = |name: &str| answer["data"][name].as_str().unwrap().to_owned();
        Self { http, url, ticket: text("ticket"), csrf: text("CSRFPreventionToken") }
    }

    /// Performs a line, and panics unless every command of it succeeds.
    pub(crate) async fn run(&self, line: &str) {
        for command in line.split(" && ") {
            let words = words(command);
            let (method, path, form) = call(&words).unwrap_or_else(|| panic!("nobody knows {command:?}"));
            let (status, text) = self.call(method, &path, &form).await;
            assert!(status.is_success(), "{command}: {status} {text}");
        }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, form: &[(String, String)]) -> (StatusCode, String) {
        let request = self.http.request(method, format!("{}{path}", self.url)).form(form);
        let request = request.header("Cookie", format!("PVEAuthCookie={}", self.ticket));
        let answer = request.header("CSRFPreventionToken", &self.csrf).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }
}

/// Parameters by name.
type Form = Vec<(String, String)>;

/// The API call that a command makes.
fn call(words: &[String]) -> Option<(Method, String, Form)> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (fixed, rest): (Method, _) = match words.as_slice() {
        ["pveum", "pool", "add", pool] => return Some((Method::POST, "/pools".into(), vec![given("poolid", pool)])),
        ["pveum", "role", "add", role, rest @ ..] => {
            let form = std::iter::once(given("roleid", role)).chain(options(rest)?).collect();
            return Some((Method::POST, "/access/roles".into(), form));
        }
        ["pveum", "role", "modify", role, rest @ ..] => {
            return Some((Method::PUT, format!("/access/roles/{role}"), options(rest)?));
        }
        ["pveum", "acl", "modify", path, rest @ ..] => {
            let form = std::iter::once(given("path", path)).chain(options(rest)?).collect();
            return Some((Method::PUT, "/access/acl".into(), form));
        }
        ["pvesm", "set", storage, rest @ ..] => (Method::PUT, (*storage, rest)),
        _ => return None,
    };
    Some((fixed, format!("/storage/{}", rest.0), options(rest.1)?))
}

fn given(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// `--name value` pairs.
fn options(words: &[&str]) -> Option<Form> {
    words.chunks(2).map(|pair| Some(given(pair.first()?.strip_prefix("--")?, pair.get(1)?))).collect()
}

/// Words as a shell splits them, single quotes honoured, comments left out.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().take_while(|word| !word.starts_with('#')).map(str::to_owned));
        }
    }
    words
}
