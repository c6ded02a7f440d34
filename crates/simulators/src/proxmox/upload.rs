//! Multipart uploads: text fields first, then one file part named `filename` (proxmox.md 3.4).

use bytes::Bytes;
use indexmap::IndexMap;

use super::error::{ApiError, ApiResult};

/// An uploaded file with the fields before it.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) fields: IndexMap<String, String>,
    pub(crate) filename: String,
    pub(crate) bytes: Bytes,
}

/// The boundary of a `multipart/form-data` content type.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let rest = content_type.strip_prefix("multipart/form-data")?;
    let value = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    Some(value.trim_matches('"').to_owned())
}

/// Takes a body apart.
pub(crate) fn parse(body: &Bytes, boundary: &str) -> ApiResult<Upload> {
    let bad = |text: &str| ApiError::bare(501, text);
    let delimiter = format!("--{boundary}");
    let mut fields = IndexMap::new();
    let mut at = find(body, delimiter.as_bytes(), 0).ok_or_else(|| bad("wrong multipart boundary"))? + delimiter.len();
    loop {
        if body[at..].starts_with(b"--") {
            return Err(bad("upload without file part"));
        }
        let start = at + 2;
        let end = find(body, b"\r\n\r\n", start).ok_or_else(|| bad("unexpected end of multipart header"))?;
        let header = String::from_utf8_lossy(&body[start..end]).into_owned();
        let data = end + 4;
        let next = find(body, format!("\r\n{delimiter}").as_bytes(), data)
            .ok_or_else(|| bad("unexpected end of multipart data"))?;
        let name = attribute(&header, "name").ok_or_else(|| bad("multipart part without name"))?;
        match attribute(&header, "filename") {
            Some(filename) if name == "filename" => {
                return Ok(Upload { fields, filename, bytes: body.slice(data..next) });
            }
            Some(_) => return Err(bad("wrong field name for file upload")),
            None => {
                fields.insert(name, String::from_utf8_lossy(&body[data..next]).into_owned());
            }
        }
        at = next + 2 + delimiter.len();
    }
}

fn attribute(header: &str, name: &str) -> Option<String> {
    let disposition = header.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let marker = format!("{name}=\"");
    let found = disposition.split(';').map(str::trim).find_map(|part| part.strip_prefix(marker.as_str()))?;
    Some(found.trim_end_matches('"').to_owned())
}

fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    haystack.get(from..)?.windows(needle.len()).position(|window| window == needle).map(|at| at + from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_before_the_file_are_kept() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso\r\n--B\r\nContent-Disposition: \
                    form-data; name=\"filename\"; filename=\"a.iso\"\r\nContent-Type: x\r\n\r\nDATA\r\nMORE\r\n--B--\r\n";
        let upload = parse(&Bytes::from(body), "B").unwrap();
        assert_eq!(upload.fields["content"], "iso");
        assert_eq!((upload.filename.as_str(), &upload.bytes[..]), ("a.iso", b"DATA\r\nMORE".as_slice()));
        assert_eq!(boundary("multipart/form-data; boundary=\"B\"").unwrap(), "B");
    }
}
