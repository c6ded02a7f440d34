//! The HTTP server in front of the API: framing, limits and headers of pveproxy (proxmox.md 1.1).

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, ext::ReasonPhrase, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{
    call::{self, Reply, Request},
    error::{ApiError, ApiResult},
    hands,
    params::{Params, percent_decode},
    sim::Sim,
    upload,
};
use crate::{delays::Who, faults::FaultAction};

/// Requests one connection may carry.
const REQUESTS_PER_CONNECTION: usize = 100;
/// Largest body that is not an upload.
const BODY_LIMIT: usize = 512 << 10;
/// Largest upload a lab keeps in memory.
const UPLOAD_LIMIT: usize = 2 << 30;
const IDLE: Duration = Duration::from_secs(5);

/// The connection is closed without an answer.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection dropped as planned")
    }
}

impl std::error::Error for Dropped {}

/// Serves connections until the simulator shuts down.
pub(crate) async fn serve(sim: Arc<Sim>, listener: TcpListener, tls: TlsAcceptor) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = sockets::accept(&listener) => accepted,
            () = sim.shutdown.cancelled() => return,
        };
        let (sim, tls) = (sim.clone(), tls.clone());
        tokio::spawn(async move {
            let stop = sim.shutdown.clone();
            tokio::select! {
                () = connection(sim, stream, tls) => {}
                () = stop.cancelled() => {}
            }
            tracing::trace!(%peer, "connection closed");
        });
    }
}

async fn connection(sim: Arc<Sim>, stream: TcpStream, tls: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    // With every node off nobody answers at the cluster's address.
    if sim.world().entry_host().is_none() {
        return;
    }
    let mut first = [0_u8; 1];
    // A TLS handshake begins with 0x16; anything else is plain HTTP and is sent to https.
    match stream.peek(&mut first).await {
        Ok(1) if first[0] == 0x16 => {}
        Ok(1) => return redirect(stream).await,
        _ => return,
    }
    let Ok(stream) = tls.accept(stream).await else { return };
    let served = Arc::new(AtomicUsize::new(0));
    let service = service_fn(move |request| {
        let (sim, count) = (sim.clone(), served.fetch_add(1, Ordering::Relaxed) + 1);
        async move { answer(&sim, request, count).await }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(64)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::trace!(%error, "connection ended");
    }
}

async fn redirect(mut stream: TcpStream) {
    let local = stream.local_addr().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 8006)));
    let answer = format!(
        "HTTP/1.1 301 Moved Permanently\r\nLocation: https://{local}/\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn answer(
    sim: &Arc<Sim>,
    request: hyper::Request<Incoming>,
    count: usize,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let (parts, body) = request.into_parts();
    let gzip = accepts_gzip(&parts.headers);
    let decoded = percent_decode(parts.uri.path());
    let (format, path) = match split_path(&decoded) {
        Ok(split) => split,
        Err(error) => return Ok(respond(Format::Json, &Err(error), (gzip, count), sim)),
    };
    let latency = sim.faults.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let name = format!("pve {} {path}", parts.method);
    let (mut drop_reply, mut late) = (false, None);
    match sim.faults.take(&name) {
        Some(FaultAction::DropRequest) => return Err(Dropped),
        Some(FaultAction::Hang) => std::future::pending().await,
        Some(FaultAction::Delay { milliseconds }) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        Some(FaultAction::Error { code, message, empty_body }) => {
            let error = if empty_body { ApiError::bare(code, message) } else { ApiError::with_code(code, message) };
            return Ok(respond(format, &Err(error), (gzip, count), sim));
        }
        Some(FaultAction::Hold) => sim.faults.lifted(&name).await,
        Some(FaultAction::DropReply | FaultAction::Break { .. }) => drop_reply = true,
        Some(FaultAction::LateError { code, message }) => late = Some(ApiError::bare(code, message)),
        Some(FaultAction::Warnings { .. }) | None => {}
    }
    let result = take(sim, parts, body, path).await;
    if drop_reply {
        return Err(Dropped);
    }
    if let Some(error) = late {
        return Ok(respond(format, &Err(error), (gzip, count), sim));
    }
    if result.as_ref().is_err_and(|error| error.code == 401) {
        sim.pace.pass(Who::Cluster, "refused login", Duration::from_secs(3)).await;
    }
    Ok(respond(format, &result, (gzip, count), sim))
}

/// Framing checks, credentials, body; then the call itself.
async fn take(sim: &Arc<Sim>, parts: http::request::Parts, body: Incoming, path: String) -> ApiResult<Reply> {
    let http::request::Parts { method, uri, headers, .. } = parts;
    if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&method) {
        return Err(ApiError::bare(501, format!("method '{method}' not available")));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(ApiError::bare(501, "chunked transfer encoding not supported"));
    }
    let identity = call::authenticate(sim, &method, &path, &headers)?;
    let length: usize = header_text(&headers, header::CONTENT_LENGTH).parse().unwrap_or(0);
    if length > 0 && (method == Method::GET || method == Method::DELETE) {
        return Err(ApiError::bare(501, format!("Unexpected content for method '{method}'")));
    }
    let content_type = header_text(&headers, header::CONTENT_TYPE).to_owned();
    let mut uploaded = None;
    let mut params = Params::default();
    if length > 0 {
        if let Some(boundary) = upload::boundary(&content_type).filter(|_| path.ends_with("/upload")) {
            let upload = upload::parse(&read(body, UPLOAD_LIMIT).await?, &boundary)?;
            for (key, value) in &upload.fields {
                params.set(key, value.clone());
            }
            params.set("filename", upload.filename.clone());
            uploaded = Some(upload);
        } else {
            params = decode(&content_type, &read(body, BODY_LIMIT).await?)?;
        }
    }
    params.overlay(Params::from_form(uri.query().unwrap_or_default()));
    params.remove("_dc");
    hands::tell(sim, identity.as_ref(), &method, &path);
    call::run(sim, identity, Request { method, path, params, upload: uploaded }).await
}

async fn read(body: Incoming, limit: usize) -> ApiResult<Bytes> {
    let collected = Limited::new(body, limit).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|_| ApiError::bare(501, "for data too large"))
}

fn decode(content_type: &str, body: &[u8]) -> ApiResult<Params> {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "" | "application/x-www-form-urlencoded" => Ok(Params::from_form(&String::from_utf8_lossy(body))),
        "application/json" => {
            let value = serde_json::from_slice(body)
                .map_err(|error| ApiError::with_code(400, format!("malformed JSON string: {error}")))?;
            Params::from_json(value).ok_or_else(|| ApiError::with_code(400, "JSON body is no object"))
        }
        other => Err(ApiError::bare(506, format!("upload 'Content-Type '{other}' not implemented"))),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Json,
    ExtJs,
}

/// `/api2/<format>/<path>` as format and path.
fn split_path(path: &str) -> Result<(Format, String), ApiError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        ["api2", "json", ref rest @ ..] => Ok((Format::Json, format!("/{}", rest.join("/")))),
        ["api2", "extjs", ref rest @ ..] => Ok((Format::ExtJs, format!("/{}", rest.join("/")))),
        ["api2"] => Err(ApiError::bare(501, "no such uri")),
        ["api2", format, ..] => Err(ApiError::bare(501, format!("no formatter for uri {path}, {format}"))),
        _ => Err(ApiError::bare(501, format!("no such file '{path}'"))),
    }
}

fn respond(
    format: Format,
    result: &ApiResult<Reply>,
    (gzip, count): (bool, usize),
    sim: &Sim,
) -> Response<Full<Bytes>> {
    let (mut code, mut reason) = match result {
        Ok(_) => (200, "OK".to_owned()),
        Err(error) => (error.code, error.reason().to_owned()),
    };
    let (content_type, body) = match (format, result) {
        (_, Ok(Reply::Text(text))) => ("text/plain;charset=UTF-8", text.clone()),
        (Format::Json, _) => {
            let body = call::json_body(result, sim.message_in_body).map(|body| body.to_string());
            ("application/json;charset=UTF-8", body.unwrap_or_default())
        }
        (Format::ExtJs, _) => {
            (code, reason) = (200, "OK".to_owned());
            ("application/json;charset=UTF-8", call::extjs_body(result).to_string())
        }
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("pve-api-daemon/3.0"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    let now = httpdate();
    if let Ok(value) = HeaderValue::from_str(&now) {
        headers.insert(header::EXPIRES, value);
    }
    if code >= 400 || count >= REQUESTS_PER_CONNECTION {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    let mut bytes = Bytes::from(body);
    if gzip
        && bytes.len() > 1024
        && let Some(packed) = compress(&bytes)
    {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        bytes = packed;
    }
    *response.body_mut() = Full::new(bytes);
    if let Ok(phrase) = ReasonPhrase::try_from(reason.into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
    response
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    header_text(headers, header::ACCEPT_ENCODING).contains("gzip")
}

fn compress(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn httpdate() -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now()).unwrap_or_default()
}
