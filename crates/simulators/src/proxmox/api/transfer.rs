//! Files that come over the network: `download-url` really fetches, `upload` takes what it is sent (proxmox.md 3.4).

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::{
    image,
    machine::DiskContent,
    proxmox::{
        call::{Call, Reply},
        error::{ApiError, ApiResult},
        sim::{Worker, now},
        storage::{Storage, StoredFile, Volume},
    },
};

/// What a download was asked for.
struct Order {
    storage: String,
    content: &'static str,
    file: String,
    path: String,
    url: String,
    checksum: Option<(String, String)>,
    verify: bool,
}

pub(super) fn download(call: &Call) -> ApiResult<Reply> {
    let params = &call.params;
    let content = content_type(params.need("content"));
    let file = normalise(params.need("filename"));
    let storage = check_target(call, content, &file)?;
    if params.get("compression").is_some() && content == "import" {
        return Err(ApiError::die("decompression not supported for import"));
    }
    let checksum = params.get("checksum-algorithm").zip(params.get("checksum"));
    let order = Order {
        storage: storage.name.clone(),
        content,
        path: storage.file_path(content, &file),
        url: params.need("url").to_owned(),
        checksum: checksum.map(|(algorithm, sum)| (algorithm.to_owned(), sum.to_lowercase())),
        verify: params.get("verify-certificates") != Some("0"),
        file,
    };
    let id = encode(&order.file);
    let upid = call
        .sim
        .fork(&call.identity, call.node(), ("download", &id), |worker| async move { fetch(&worker, order).await });
    Ok(upid.into())
}

pub(super) fn upload(call: &Call) -> ApiResult<Reply> {
    let upload = call
        .upload
        .clone()
        .ok_or_else(|| ApiError::param("tmpfilename", "property is missing and it is not optional"))?;
    let content = content_type(call.params.need("content"));
    let file = normalise(&upload.filename);
    crate::proxmox::call::reach(&call.sim.world(), call.node())?;
    let storage = check_target(call, content, &file)?;
    let host = call.node().to_owned();
    let path = storage.file_path(content, &file);
    let checksum = call.params.get("checksum-algorithm").zip(call.params.get("checksum"));
    let checksum = checksum.map(|(algorithm, sum)| (algorithm.to_owned(), sum.to_lowercase()));
    // The task belongs to the node that was asked, not to the one named in the path.
    let upid = call.sim.fork(&call.identity, &call.entry, ("imgcopy", ""), |worker| async move {
        worker.log(format!("starting file import from: /var/tmp/pveupload-{:016x}", worker.upid.pid));
        worker.log(format!("target node: {host}"));
        worker.log(format!("target file: {path}"));
        if let Some((algorithm, expected)) = &checksum {
            let got = digest(algorithm, &upload.bytes).unwrap_or_default();
            if got != *expected {
                return Err(format!("checksum mismatch: got '{got}' != expect '{expected}'"));
            }
        }
        worker.work(0.3).await?;
        store(&worker, &host, (&storage, content, &file), upload.bytes, &file)?;
        worker.log("finished file import successfully");
        Ok(())
    });
    Ok(upid.into())
}

fn content_type(name: &str) -> &'static str {
    match name {
        "iso" => "iso",
        "vztmpl" => "vztmpl",
        _ => "import",
    }
}

/// Only the last part of a path, and only harmless characters.
fn normalise(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    last.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' }).collect()
}

fn check_target(call: &Call, content: &str, file: &str) -> ApiResult<Storage> {
    let world = call.sim.world();
    let storage = world.storage(call.params.need("storage"), call.node()).map_err(ApiError::die)?;
    if !storage.kind.is_file_based() {
        return Err(ApiError::die(format!(
            "can't upload to storage type '{}', not a file based storage!",
            storage.kind.name()
        )));
    }
    if !storage.holds(content) {
        return Err(ApiError::die(format!(
            "storage '{}' is not configured for content-type '{content}'",
            storage.name
        )));
    }
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| file.to_ascii_lowercase().ends_with(suffix));
    match content {
        "iso" if !ends(&[".iso", ".img"]) => Err(ApiError::param("filename", "wrong file extension")),
        "vztmpl" if !ends(&[".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2"]) => {
            Err(ApiError::param("filename", "wrong file extension"))
        }
        "import" if !ends(&[".ova", ".qcow2", ".raw", ".vmdk"]) => {
            Err(ApiError::param("filename", "invalid filename or wrong extension"))
        }
        _ => Ok(storage.clone()),
    }
}

async fn fetch(worker: &Worker, order: Order) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let storage = sim.world().storage(&order.storage, &host)?.clone();
    let volume = format!("{}/{}", order.content, order.file);
    let existing = sim.world().volumes.get(&storage, &host, &volume).map(|volume| volume.file.clone());
    if let Some(file) = existing {
        let Some((algorithm, expected)) = &order.checksum else {
            return Err(format!("refusing to override existing file '{}'", order.path));
        };
        let got = file.and_then(|file| digest(algorithm, &file.bytes)).unwrap_or_default();
        if got == *expected {
            worker.log("OK, got correct file already, no need to download");
            return Ok(());
        }
        return Err(format!("checksum mismatch: got '{got}' != expect '{expected}', aborting"));
    }
    worker.log(format!("downloading {} to {}", order.url, order.path));
    let bytes = tokio::select! {
        bytes = get(&order) => bytes?,
        interrupted = worker.interrupted() => return Err(interrupted),
    };
    // The line is shared, and a real image is larger than its stand-in.
    worker.work(2.0).await?;
    if let Some((algorithm, expected)) = &order.checksum {
        worker.log(format!("calculating checksum...{algorithm}"));
        let got = digest(algorithm, &bytes).ok_or_else(|| format!("unsupported checksum algorithm '{algorithm}'"))?;
        if got != *expected {
            return Err(format!("checksum mismatch: got '{got}' != expect '{expected}'"));
        }
        worker.log("OK, checksum verified");
    }
    store(worker, &host, (&storage, order.content, &order.file), bytes, &order.url)?;
    worker.log(format!("download of '{}' to '{}' finished", order.url, order.path));
    Ok(())
}

/// `query-url-metadata`: what a server says about a file before it is downloaded.
pub(super) async fn metadata(call: &Call) -> ApiResult<Reply> {
    let verify = call.params.get("verify-certificates") != Some("0");
    let failed = |_| ApiError::die("invalid server response: '500 Can't connect'");
    let response = request(reqwest::Method::HEAD, call.params.need("url"), verify).await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        return Err(ApiError::die(format!("invalid server response: '{status}'")));
    }
    let file = response.url().path().rsplit('/').next().unwrap_or_default().to_owned();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut answer = json!({ "filename": file });
    if let Some(size) = header(http::header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok()) {
        answer["size"] = size.into();
    }
    if let Some(kind) = header(http::header::CONTENT_TYPE) {
        answer["mimetype"] = kind.into();
    }
    Ok(answer.into())
}

/// Asks over loopback only; the error is what wget's exit code would be.
async fn request(method: reqwest::Method, url: &str, verify: bool) -> Result<reqwest::Response, String> {
    let failed = |code: u8| format!("download failed: exit code {code}");
    let url: reqwest::Url = url.parse().map_err(|_| failed(1))?;
    let address = (url.host_str().unwrap_or_default().to_owned(), url.port_or_known_default().unwrap_or(80));
    let mut resolved = tokio::net::lookup_host(address).await.map_err(|_| failed(4))?;
    if !resolved.all(|address| address.ip().is_loopback()) {
        return Err(failed(4));
    }
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(!verify)
        .connect_timeout(Duration::from_secs(10))
        .no_proxy()
        .build()
        .map_err(|_| failed(1))?;
    client.request(method, url).send().await.map_err(|error| failed(if error.is_connect() { 4 } else { 5 }))
}

async fn get(order: &Order) -> Result<Bytes, String> {
    let failed = |code: u8| format!("download failed: exit code {code}");
    let response = request(reqwest::Method::GET, &order.url, order.verify).await?;
    if !response.status().is_success() {
        return Err(failed(8));
    }
    let expected = response.content_length();
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        body.extend_from_slice(&piece.map_err(|_| failed(4))?);
    }
    if expected.is_some_and(|expected| expected != body.len() as u64) {
        return Err(failed(4));
    }
    Ok(Bytes::from(body))
}

/// Files under the name of a volume; an existing one is replaced.
fn store(
    worker: &Worker,
    host: &str,
    (storage, content, file): (&Storage, &'static str, &str),
    bytes: Bytes,
    hint: &str,
) -> Result<(), String> {
    let seen = image::inspect(&bytes, file, hint);
    let size = bytes.len() as u64;
    let mut world = worker.sim.world();
    let used = world.volumes.used(storage, host);
    if storage.size.saturating_sub(used) < size {
        return Err("unable to write file - No space left on device".to_owned());
    }
    let format = match content {
        "iso" => "iso",
        "vztmpl" => "tgz",
        _ => file.rsplit('.').next().unwrap_or("raw"),
    };
    let volume = Volume {
        content_type: content,
        format: format.to_owned(),
        size,
        written: size,
        vmid: None,
        parent: None,
        created: now(),
        content: DiskContent::blank(),
        file: Some(StoredFile { bytes, image: seen.image, virtual_size: seen.virtual_size }),
    };
    world.volumes.insert(storage, host, &format!("{content}/{file}"), volume);
    Ok(())
}

fn digest(algorithm: &str, bytes: &[u8]) -> Option<String> {
    Some(match algorithm {
        "sha1" => hex::encode(Sha1::digest(bytes)),
        "sha224" => hex::encode(Sha224::digest(bytes)),
        "sha256" => hex::encode(Sha256::digest(bytes)),
        "sha384" => hex::encode(Sha384::digest(bytes)),
        "sha512" => hex::encode(Sha512::digest(bytes)),
        _ => return None,
    })
}

/// The file name as it stands in a UPID: no colon, space or slash.
fn encode(file: &str) -> String {
    file.chars()
        .map(|c| if matches!(c, ':' | '/' | ' ' | '%') { format!("%{:02X}", c as u32) } else { c.to_string() })
        .collect()
}
