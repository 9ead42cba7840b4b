//! The configuration of a pod's nginx. Pure.

use std::{fmt::Write as _, path::Path};

/// What a pod's nginx serves.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) pod: &'a str,
    pub(super) node: &'a str,
    /// Its own folder: everything it writes goes there.
    pub(super) prefix: &'a Path,
    pub(super) bodies: &'a Path,
    pub(super) ports: &'a [u16],
}

/// One worker in the foreground; `/` names pod, node and the client's address, `/body/<n>M` is a large file.
pub(super) fn config(site: &Site<'_>) -> String {
    let Site { pod, node, .. } = site;
    let (prefix, bodies) = (site.prefix.display(), site.bodies.display());
    let mut listen = String::new();
    for port in site.ports {
        let _ = write!(listen, "        listen {port};\n        listen [::]:{port};\n");
    }
    format!(
        r#"daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {prefix}/nginx.pid;
error_log stderr warn;
events {{
    worker_connections 4096;
}}
http {{
    default_type application/octet-stream;
    log_format lab '$remote_addr:$remote_port $time_iso8601 "$request" $status $body_bytes_sent';
    access_log {prefix}/access.log lab;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    server {{
{listen}        server_name _;
        location = / {{
            default_type text/plain;
            return 200 "pod={pod} node={node} client=$remote_addr\n";
        }}
        location = /healthz {{
            default_type text/plain;
            access_log off;
            return 200 "ok\n";
        }}
        location /body/ {{
            alias {bodies}/;
        }}
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_accepts_the_configuration() {
        let directory = tempfile::tempdir().expect("directory");
        let site = Site {
            pod: "p",
            node: "n",
            prefix: directory.path(),
            bodies: directory.path(),
            ports: &[18_080, 18_443],
        };
        let path = directory.path().join("nginx.conf");
        std::fs::write(&path, config(&site)).expect("write");
        let output = std::process::Command::new("nginx")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["-t", "-e", "stderr", "-p"])
            .arg(directory.path())
            .arg("-c")
            .arg(&path)
            .output()
            .expect("nginx is installed by `make setup`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
