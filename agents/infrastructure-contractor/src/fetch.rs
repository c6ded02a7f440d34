//! The contractor's own HTTP: registers schematics and hashes images, inside the allowed targets.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use futures::StreamExt;
use proxmox::targets::AllowedTargets;
use reqwest::{
    StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use sha2::{Digest, Sha256};

use crate::config::Images;

/// Refuses names that resolve outside the allowed targets.
struct Guard(AllowedTargets);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let all: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let permitted: Vec<_> = all.into_iter().filter(|address| allowed.allows(address.ip())).collect();
            if permitted.is_empty() {
                return Err(format!("{} is outside the allowed targets ({allowed})", name.as_str()).into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

fn literal_is_allowed(url: &reqwest::Url, allowed: &AllowedTargets) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.parse().map_or(true, |address| allowed.allows(address))
}

fn client(images: &Images, allowed: &AllowedTargets) -> anyhow::Result<reqwest::Client> {
    let guard = allowed.clone();
    let redirects = Policy::custom(move |attempt| {
        if attempt.previous().len() > 5 || !literal_is_allowed(attempt.url(), &guard) {
            attempt.error("redirected outside the allowed targets, or too often")
        } else {
            attempt.follow()
        }
    });
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .dns_resolver(Arc::new(Guard(allowed.clone())))
        .redirect(redirects)
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(60));
    if let Some(file) = &images.ca_file {
        let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
    }
    Ok(builder.build()?)
}

/// Tells the factory about a schematic; its id must be the one that we computed.
///
/// A mirror that only serves files answers 404 or 405, which is fine: then the image must be there.
pub(crate) async fn register_schematic(
    images: &Images,
    allowed: &AllowedTargets,
    canonical: &str,
    id: &str,
) -> anyhow::Result<()> {
    let url = parse(&format!("{}/schematics", images.factory.trim_end_matches('/')), allowed)?;
    let answer = client(images, allowed)?.post(url).body(canonical.to_owned()).send().await?;
    if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        return Ok(());
    }
    let answer: serde_json::Value = answer.error_for_status()?.json().await?;
    match answer["id"].as_str() {
        Some(told) if told == id => Ok(()),
        Some(told) => bail!("the factory calls the schematic {told}, we computed {id}"),
        None => bail!("the factory's answer holds no schematic id"),
    }
}

/// SHA-256 of what is at `url`, lower-case hex. Streams; nothing is kept.
pub(crate) async fn sha256(images: &Images, allowed: &AllowedTargets, url: &str) -> anyhow::Result<String> {
    let answer = client(images, allowed)?.get(parse(url, allowed)?).send().await?.error_for_status()?;
    let mut hash = Sha256::new();
    let mut body = answer.bytes_stream();
    while let Some(chunk) = body.next().await {
        hash.update(chunk?);
    }
    Ok(hex::encode(hash.finalize()))
}

fn parse(url: &str, allowed: &AllowedTargets) -> anyhow::Result<reqwest::Url> {
    let parsed = reqwest::Url::parse(url).with_context(|| format!("{url:?} is not a URL"))?;
    if literal_is_allowed(&parsed, allowed) {
        Ok(parsed)
    } else {
        Err(anyhow!("{url} is outside the allowed targets ({allowed})"))
    }
}
