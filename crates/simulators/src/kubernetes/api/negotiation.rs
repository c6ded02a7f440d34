//! Which representation a client wants, and how bodies are read and written.

use http::HeaderMap;
use serde_json::Value;

use super::error::ApiError;
use super::openapi_protobuf::ASKED_FOR;

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object or list itself.
    Plain,
    /// `as=Table`
    Table,
    /// `as=PartialObjectMetadata` and `as=PartialObjectMetadataList`
    Metadata,
    /// `as=APIGroupDiscoveryList`, with the version asked for.
    AggregatedDiscovery(&'static str),
    /// OpenAPI v2 as protobuf, the one document that has such a form.
    OpenApiProtobuf,
}

/// The encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
}

/// Reads the `Accept` header: the first range that can be served counts, as in the real server. Protobuf cannot.
///
/// # Errors
/// 406 when nothing acceptable is served.
pub(crate) fn accept(headers: &HeaderMap) -> Result<Wanted, ApiError> {
    let plain = Wanted { shape: Shape::Plain, encoding: Encoding::Json };
    let Some(header) = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(plain);
    };
    if header.trim().is_empty() {
        return Ok(plain);
    }
    header.split(',').find_map(media_range).ok_or_else(ApiError::not_acceptable)
}

fn media_range(range: &str) -> Option<Wanted> {
    let mut parts = range.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "*/*" | "application/*" | "application/json" | "text/plain" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        name if ASKED_FOR.contains(&name) => {
            return Some(Wanted { shape: Shape::OpenApiProtobuf, encoding: Encoding::Json });
        }
        _ => return None,
    };
    let (mut shape, mut group, mut version) = ("", "", "");
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", value)) => shape = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    let shape = match (shape, group, version) {
        ("", _, _) => Shape::Plain,
        ("Table", "meta.k8s.io", "v1" | "v1beta1") => Shape::Table,
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Shape::Metadata,
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Shape::AggregatedDiscovery("v2"),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Shape::AggregatedDiscovery("v2beta1"),
        _ => return None,
    };
    Some(Wanted { shape, encoding })
}

/// The media type of a body, without parameters; JSON when the client sent none.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map_or("application/json", |value| value.split(';').next().unwrap_or_default().trim())
}

/// The media types of bodies.
const SUPPORTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads a JSON, YAML or protobuf body.
///
/// # Errors
/// 415 for another media type (CBOR) and for protobuf of a kind that is not understood, 400 for a body that cannot be parsed.
pub(crate) fn decode(media_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    match media_type {
        "application/json" | "" | "*/*" => serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}"))),
        "application/yaml" | "application/apply-patch+yaml" => match serde_json::from_slice(body) {
            Ok(value) => Ok(value),
            Err(_) => serde_saphyr::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("error parsing YAML: {error}"))),
        },
        "application/vnd.kubernetes.protobuf" => {
            super::protobuf::decode(body).map_err(|why| ApiError::unsupported_media_type(&why, SUPPORTED))
        }
        other => Err(ApiError::unsupported_media_type(other, SUPPORTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(accept_header: &str) -> Option<Shape> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, accept_header.parse().expect("valid"));
        accept(&headers).ok().map(|wanted| wanted.shape)
    }

    #[test]
    fn clients_that_prefer_protobuf_fall_back_to_json() {
        assert_eq!(shape("application/vnd.kubernetes.protobuf,application/json"), Some(Shape::Plain));
        assert_eq!(shape("application/vnd.kubernetes.protobuf"), None);
        let old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        assert_eq!(shape(old), Some(Shape::OpenApiProtobuf));
        assert_eq!(shape("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Some(Shape::Table));
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(shape(discovery), Some(Shape::AggregatedDiscovery("v2")));
    }
}
