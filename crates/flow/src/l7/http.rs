//! Start lines of HTTP/1 (RFC 9112), and the host of a request, as far as the bytes go. Never reads bodies, nor any other header.

use httparse::{EMPTY_HEADER, Header};

/// Headers that are looked through for the host.
const HEADERS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Of a start line that was cut short, only the method is known.
    Request {
        method: String,
        url: String,
        protocol: String,
    },
    Response {
        code: u16,
        protocol: String,
    },
}

/// The message that `bytes` begin with, if they do.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let Some(line_end) = end_of_line(bytes) else { return cut(bytes) };
    let line = [&bytes[..line_end], b"\r\n"].concat();
    if bytes.starts_with(b"HTTP/") {
        let mut response = httparse::Response::new(&mut []);
        response.parse(&line).ok()?;
        return Some(Message::Response { code: response.code?, protocol: protocol(response.version?) });
    }
    // Whole lines only, ended as the last header is: what was cut off is not missed.
    let lines = bytes.iter().rposition(|byte| *byte == b'\n').map_or(line_end, |last| last + 1);
    let head = [&bytes[..lines], b"\r\n"].concat();
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&head) {
        Ok(_) => of(&request),
        Err(_) => {
            let mut request = httparse::Request::new(&mut []);
            request.parse(&line).ok()?;
            of(&request)
        }
    }
}

/// Behind the first line, its end included.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().position(|byte| *byte == b'\n')? + 1)
}

/// A request whose first line does not end here.
fn cut(bytes: &[u8]) -> Option<Message> {
    const LONGEST: usize = 16;
    let space = bytes.iter().take(LONGEST).position(|byte| *byte == b' ')?;
    let method = std::str::from_utf8(&bytes[..space]).ok()?;
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    is_method.then(|| Message::Request { method: method.into(), url: String::new(), protocol: String::new() })
}

fn of(request: &httparse::Request<'_, '_>) -> Option<Message> {
    let (method, target) = (request.method?, request.path?);
    let host = request.headers.iter().find_map(host);
    Some(Message::Request {
        method: method.to_owned(),
        url: match host {
            // The other forms say it all (RFC 9112, section 3.2), or nothing.
            Some(host) if target.starts_with('/') => format!("http://{host}{target}"),
            _ => target.to_owned(),
        },
        protocol: protocol(request.version?),
    })
}

/// Letters, digits and what addresses and ports have besides.
fn host<'a>(header: &Header<'a>) -> Option<&'a str> {
    let is_host = header.name.eq_ignore_ascii_case("host");
    let value = std::str::from_utf8(header.value).ok().filter(|value| is_host && !value.is_empty())?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%~".contains(&byte);
    value.bytes().all(plain).then_some(value)
}

fn protocol(minor: u8) -> String {
    format!("HTTP/1.{minor}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(method: &str, url: &str, protocol: &str) -> Option<Message> {
        Some(Message::Request { method: method.into(), url: url.into(), protocol: protocol.into() })
    }

    #[test]
    fn requests_have_their_url_as_far_as_it_is_said() {
        for (bytes, expected) in [
            (
                "GET /a?b=c HTTP/1.1\r\nAccept: */*\r\nhost: web:8080\r\n\r\nbody",
                request("GET", "http://web:8080/a?b=c", "HTTP/1.1"),
            ),
            (
                "GET / HTTP/1.1\r\nHost: [fd00::1]:80\r\nCookie: cut of",
                request("GET", "http://[fd00::1]:80/", "HTTP/1.1"),
            ),
            ("GET / HTTP/1.1\r\nHost: cut of", request("GET", "/", "HTTP/1.1")),
            ("GET / HTTP/1.0\r\n\r\n", request("GET", "/", "HTTP/1.0")),
            ("GET / HTTP/1.1\r\nno header\r\nHost: web\r\n\r\n", request("GET", "/", "HTTP/1.1")),
            ("GET / HTTP/1.1\r\nHost: a b/@\r\n\r\n", request("GET", "/", "HTTP/1.1")),
            ("GET http://web/x HTTP/1.1\r\nHost: other\r\n\r\n", request("GET", "http://web/x", "HTTP/1.1")),
            ("CONNECT web:443 HTTP/1.1\r\nHost: web:443\r\n\r\n", request("CONNECT", "web:443", "HTTP/1.1")),
            ("OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n", request("OPTIONS", "*", "HTTP/1.1")),
            ("DELETE /very/long", request("DELETE", "", "")),
            ("GET / HTTP/2.0\r\n\r\n", None),
            ("get up, stand up", None),
            ("", None),
        ] {
            assert_eq!(parse(bytes.as_bytes()), expected, "{bytes}");
        }
    }

    #[test]
    fn responses_have_their_code() {
        let response = |code, protocol: &str| Some(Message::Response { code, protocol: protocol.into() });
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nok"), response(200, "HTTP/1.1"));
        assert_eq!(parse(b"HTTP/1.0 503 \r\ncut"), response(503, "HTTP/1.0"));
        assert_eq!(parse(b"HTTP/1.1 404\r\n"), response(404, "HTTP/1.1"));
        assert_eq!(parse(b"HTTP/1.1 2x0 OK\r\n\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 200 cut of"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_bad(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..80_usize, at in 0..80_usize, value: u8) {
            let _ = parse(&bytes);
            for good in [&b"POST /a/b?c HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n"[..], b"HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n"] {
                let mut bytes = good.to_vec();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
                bytes.truncate(cut);
                if let Some(Message::Request { url, .. }) = parse(&bytes) {
                    prop_assert!(url.len() <= bytes.len() + "http://".len());
                }
            }
        }
    }
}
