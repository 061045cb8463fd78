//! The proxies that are compared: the same front, `bench.example/bench` on one core, before what a measurement puts
//! behind them.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::Options;
use crate::process::{Process, free_port, wait_for_port};
use crate::sluice::Gateway;

/// A proxy that is running, ready for load.
pub struct Proxy {
    pub name: &'static str,
    pub port: u16,
    process: Running,
}

enum Running {
    Peer(Process),
    Sluice(Box<Gateway>),
}

impl Proxy {
    pub fn process(&self) -> &Process {
        match &self.process {
            Running::Peer(process) => process,
            Running::Sluice(gateway) => &gateway.node,
        }
    }

    fn peer(name: &'static str, port: u16, command: &[&str], log: &Path) -> Result<Self> {
        let process = Process::start(name, 1, command, &[], log)?;
        wait_for_port(port, name)?;
        Ok(Self { name, port, process: Running::Peer(process) })
    }
}

/// `service` are the fields of the service in YAML, on one line.
pub fn sluice(options: &Options, service: &str) -> Result<Proxy> {
    let gateway = Gateway::start(&options.sluice)?;
    let port = gateway.traffic_port;
    gateway.apply(&format!(
        "version: 1\nlisteners: [{{ name: web, bind: \"127.0.0.1:{port}\" }}]\nservices: [{{ name: bench, {service} }}]\n\
         routes: [{{ name: bench, hosts: [bench.example], paths: [/bench], service: bench }}]\n"
    ))?;
    wait_for_port(port, "sluice")?;
    Ok(Proxy { name: "sluice", port, process: Running::Sluice(Box::new(gateway)) })
}

/// `upstream` and `location` are what stands in these blocks besides.
pub fn nginx(folder: &Path, upstream: &str, location: &str) -> Result<Proxy> {
    let port = free_port()?;
    let config = folder.join("nginx.conf");
    let temporary = folder.display();
    fs::write(
        &config,
        format!(
            "daemon off; worker_processes 1; pid {temporary}/nginx.pid; error_log {temporary}/nginx.err;\n\
             events {{ worker_connections 16384; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;\n\
             client_body_temp_path {temporary}/b; proxy_temp_path {temporary}/p; fastcgi_temp_path {temporary}/f; uwsgi_temp_path {temporary}/u; scgi_temp_path {temporary}/s;\n\
             upstream up {{ {upstream} keepalive 128; keepalive_requests 1000000000; }}\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; server_name bench.example;\n\
             location /bench {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; {location} }} }} }}\n"
        ),
    )?;
    Proxy::peer("nginx", port, &["nginx", "-c", &config.to_string_lossy()], &folder.join("nginx.log"))
}

/// `backend` are further lines of the backend, its servers among them.
pub fn haproxy(folder: &Path, backend: &str) -> Result<Proxy> {
    let port = free_port()?;
    let config = folder.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n  nbthread 1\n  maxconn 16000\n  no strict-limits\n\
             defaults\n  mode http\n  timeout connect 2s\n  timeout client 300s\n  timeout server 30s\n  timeout http-keep-alive 300s\n\
             frontend bench\n  bind 127.0.0.1:{port}\n  acl host hdr(host) -i bench.example\n  acl path path_beg /bench\n  use_backend up if host path\n\
             backend up\n  http-reuse always\n{backend}"
        ),
    )?;
    Proxy::peer("haproxy", port, &["haproxy", "-db", "-f", &config.to_string_lossy()], &folder.join("haproxy.log"))
}
