//! The smallest HTTP client: one request without a body over a local socket. Blocking; needs no runtime.
//!
//! Speaks HTTP/1.0, so that the answer ends with the connection and is never chunked.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// An answer of any status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Asks the server behind a unix socket.
///
/// # Errors
/// Nobody listens, no whole answer within `timeout`, or no HTTP.
pub fn get_unix(socket: &Path, path: &str, timeout: Duration) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    exchange(stream, "GET", path)
}

/// Tells the server behind a unix socket to do something.
///
/// # Errors
/// As [`get_unix`].
pub fn post_unix(socket: &Path, path: &str, timeout: Duration) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    exchange(stream, "POST", path)
}

/// Asks a server on this host.
///
/// # Errors
/// As [`get_unix`].
pub fn get_tcp(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<Response> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    exchange(stream, "GET", path)
}

impl Response {
    /// The body, where the status is 2xx; the body as the error's text otherwise.
    ///
    /// # Errors
    /// Any other status.
    pub fn success(self) -> io::Result<Vec<u8>> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let text = String::from_utf8_lossy(&self.body);
        Err(io::Error::other(format!("status {}: {}", self.status, text.trim())))
    }
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<Response> {
    let fields = "Host: localhost\r\nAccept: application/json\r\nContent-Length: 0";
    write!(stream, "{method} {path} HTTP/1.0\r\n{fields}\r\n\r\n")?;
    let mut bytes = vec![];
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn parse(bytes: &[u8]) -> Option<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: bytes[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split_into_status_and_body() {
        let answer = parse(b"HTTP/1.0 404 Not Found\r\na: b\r\n\r\nno\r\n\r\nsuch").expect("HTTP");
        assert_eq!(answer, Response { status: 404, body: b"no\r\n\r\nsuch".to_vec() });
        assert_eq!(answer.success().expect_err("404").to_string(), "status 404: no\r\n\r\nsuch");
        assert_eq!(parse(b"SSH-2.0\r\n\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 200"), None);
    }
}
