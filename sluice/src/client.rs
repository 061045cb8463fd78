//! The client of the admin API: which server, which gateway, which token, and one request at a time.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::problem::Problem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::problems;
use crate::views::{Gateway, Page};

/// Where `sluice run` and `sluice control-plane` leave the admin token unless told otherwise.
const USUAL_DATA_DIR: &str = "./sluice-data";
/// Exports of large configurations are large; beyond this something is wrong.
const MAX_ANSWER_BYTES: usize = 1024 * 1024 * 1024;
/// The form of nearly everything.
const JSON: &str = "application/json";
/// How much of a list is asked for at once.
const PAGE: u32 = 1000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Which control plane, and who asks.
#[derive(Args, Clone)]
#[command(next_help_heading = "Control plane")]
pub struct ClientArguments {
    /// Address of the admin API
    #[arg(long, global = true, env = "SLUICE_SERVER", default_value = "http://127.0.0.1:8081", value_name = "URL")]
    server: Uri,

    /// The admin token itself; a file keeps it out of the list of processes [env: SLUICE_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,

    /// A file with the admin token [env: SLUICE_TOKEN_FILE] [default: admin-token in the data folder, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The gateway that it is about
    #[arg(long, global = true, env = "SLUICE_GATEWAY", default_value = "default", value_name = "NAME")]
    gateway: String,
}

/// A control plane to talk to.
pub struct Client {
    server: Uri,
    shown: String,
    gateway: String,
    token: Option<String>,
}

/// An answer that comes piece by piece.
pub struct Stream {
    shown: String,
    body: Incoming,
    /// What moves the bytes; it ends with the body.
    connection: Option<Connection>,
}

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// What the control plane said when it refused.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub request_id: String,
    #[serde(default)]
    pub errors: Vec<Problem>,
}

impl ClientArguments {
    pub fn connect(&self) -> anyhow::Result<Client> {
        Client::new(self.server.clone(), self.gateway.clone(), self.find_token()?)
    }

    /// Arguments come before the environment, which is why clap does not read both.
    fn find_token(&self) -> anyhow::Result<Option<String>> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(token) = &self.token {
            return Ok(Some(token.trim().to_owned()));
        }
        if let Some(file) = &self.token_file {
            return read_token(file).map(Some);
        }
        if let Some(token) = variable("SLUICE_TOKEN") {
            return Ok(Some(token.to_string_lossy().trim().to_owned()));
        }
        if let Some(file) = variable("SLUICE_TOKEN_FILE") {
            return read_token(Path::new(&file)).map(Some);
        }
        let folder = variable("SLUICE_DATA_DIR").map_or_else(|| USUAL_DATA_DIR.into(), PathBuf::from);
        let usual = folder.join("admin-token");
        if usual.exists() { read_token(&usual).map(Some) } else { Ok(None) }
    }
}

fn read_token(file: &Path) -> anyhow::Result<String> {
    let token =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the admin token in {}", file.display()))?;
    Ok(token.trim().to_owned())
}

/// Runs the requests of a command to their end.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?.block_on(work)
}

impl Client {
    pub fn new(server: Uri, gateway: String, token: Option<String>) -> anyhow::Result<Self> {
        let is_good = matches!(server.scheme_str(), Some("http" | "https")) && server.authority().is_some();
        if !is_good {
            bail!("`{server}` is no server: write http://127.0.0.1:8081 or https://gateway.example");
        }
        let shown = server.to_string().trim_end_matches('/').to_owned();
        Ok(Self { server, shown, gateway, token })
    }

    /// As people write it.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.shown
    }

    /// The warning with the whole address of the page that explains it.
    #[must_use]
    pub fn with_page(&self, warning: Problem) -> Problem {
        let page = warning.page.map(|page| format!("{}{page}", self.shown));
        Problem { page, ..warning }
    }

    /// Asks for something of the gateway and reads the JSON that comes. `path` continues `/v1/gateways/{gateway}/`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.write(Method::GET, path, None).await
    }

    /// All pages of a list.
    pub async fn list<T: DeserializeOwned>(&self, what: Query) -> anyhow::Result<Vec<T>> {
        let what = what.with("limit", PAGE);
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page: Page<T> = self.get(&what.clone().with_some("cursor", cursor).into_path()).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }

    /// Number of the newest revision.
    pub async fn head(&self) -> anyhow::Result<u64> {
        let path = format!("/v1/gateways/{}", self.gateway);
        let answer = self.exchange(Method::GET, &path, JSON, None).await?;
        let gateway: Gateway = read(&self.success(answer)?, &path)?;
        Ok(gateway.revision)
    }

    /// One request about gateways themselves: all of them, or one by its name.
    pub async fn gateways(&self, method: Method, name: Option<&str>) -> anyhow::Result<Answer> {
        let path = match name {
            Some(name) => {
                let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
                format!("/v1/gateways/{name}")
            }
            None => "/v1/gateways".to_owned(),
        };
        let answer = self.exchange(method, &path, JSON, None).await?;
        self.success(answer)
    }

    /// One request about the authority; `action` continues its path.
    pub async fn authority<T: DeserializeOwned>(&self, method: Method, action: &str) -> anyhow::Result<T> {
        let path = format!("/v1/authority{action}");
        let answer = self.exchange(method, &path, JSON, None).await?;
        read(&self.success(answer)?, &path)
    }

    /// Sends JSON to the gateway, if there is any, and reads the JSON that comes.
    pub async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<T> {
        let body = body.map(|value| Bytes::from(value.to_string()));
        read(&self.send(method, path, JSON, body).await?, path)
    }

    /// One request about the gateway. What is no success is an error, a [`Refusal`] when the control plane said why.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Answer> {
        let path = format!("/v1/gateways/{}/{path}", self.gateway);
        let answer = self.exchange(method, &path, accept, body).await?;
        self.success(answer)
    }

    /// One request to the server, whatever comes of it. A body is JSON.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, path, accept, body)?;
        let transferring = async {
            let (status, stream) = self.begin(request).await?;
            anyhow::Ok(Answer { status, body: stream.collect().await? })
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, transferring).await {
            Ok(answer) => answer,
            Err(_) => bail!("{} did not answer within {} seconds", self.shown, ANSWER_TIMEOUT.as_secs()),
        }
    }

    /// The events of the gateway, after the one that was read last.
    pub async fn events(&self, last_event_id: Option<&str>) -> anyhow::Result<Stream> {
        let mut request =
            self.request(Method::GET, &format!("/v1/gateways/{}/events", self.gateway), "text/event-stream", None)?;
        if let Some(id) = last_event_id {
            request.headers_mut().insert("last-event-id", HeaderValue::from_str(id)?);
        }
        let beginning = async {
            let (status, stream) = self.begin(request).await?;
            if status.is_success() {
                return Ok(stream);
            }
            Err(self.refusal(&Answer { status, body: stream.collect().await? }))
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, beginning).await {
            Ok(stream) => stream,
            Err(_) => bail!("{} did not answer within {} seconds", self.shown, ANSWER_TIMEOUT.as_secs()),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let target = format!("{}{path}", self.server.path().trim_end_matches('/'));
        let authority = self.server.authority().expect("checked when the client was made");
        let mut request = Request::builder().method(method).uri(target).header(HOST, authority.as_str());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, JSON);
        }
        let request = request.header(ACCEPT, accept).body(Full::new(body.unwrap_or_default()));
        request.context("the request cannot be sent")
    }

    fn success(&self, answer: Answer) -> anyhow::Result<Answer> {
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    /// Sends a request and reads the head of its answer. A command sends few, so each has a connection of its own.
    async fn begin(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Stream)> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("no HTTP is spoken there")?;
        let mut connection: Option<Connection> = Some(Box::pin(connection));
        let response = along(&mut connection, sender.send_request(request)).await;
        let response = response.with_context(|| format!("the connection to {} failed", self.shown))?;
        let status = response.status();
        Ok((status, Stream { shown: self.shown.clone(), body: response.into_body(), connection }))
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Transport>> {
        let host = self.server.host().expect("checked when the client was made");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_secure = self.server.scheme_str() == Some("https");
        let port = self.server.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let hint = || {
            format!(
                "cannot reach the control plane at {}: is it running there? (--server or SLUICE_SERVER names another)",
                self.shown
            )
        };
        let connecting = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            if !is_secure {
                return Ok(Box::new(stream) as Box<dyn Transport>);
            }
            let name = rustls::pki_types::ServerName::try_from(host.to_owned())?;
            let stream = tls()?.connect(name, stream).await?;
            anyhow::Ok(Box::new(stream) as Box<dyn Transport>)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(stream) => stream.with_context(hint),
            Err(_) => bail!("{}", hint()),
        }
    }

    fn refusal(&self, answer: &Answer) -> anyhow::Error {
        match serde_json::from_slice::<Refusal>(&answer.body) {
            Ok(mut refusal) => {
                refusal.status = answer.status.as_u16();
                if answer.status == StatusCode::UNAUTHORIZED && self.token.is_none() {
                    refusal.detail = "no token was sent: use --token-file, SLUICE_TOKEN_FILE or SLUICE_TOKEN".into();
                }
                refusal.into()
            }
            Err(_) => anyhow::anyhow!("{} answered {}, and not as a control plane does", self.shown, answer.status),
        }
    }
}

impl Stream {
    /// The next piece; nothing at the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let frame = along(&mut self.connection, self.body.frame()).await.transpose();
            let frame = frame.with_context(|| format!("the connection to {} failed", self.shown))?;
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    async fn collect(mut self) -> anyhow::Result<Bytes> {
        let body = Limited::new(self.body, MAX_ANSWER_BYTES).collect();
        let body = along(&mut self.connection, body).await.map_err(anyhow::Error::from_boxed);
        Ok(body.with_context(|| format!("the connection to {} failed", self.shown))?.to_bytes())
    }
}

/// Does `work` while the connection, as long as there is one, moves the bytes.
async fn along<T>(connection: &mut Option<Connection>, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        let Some(moving) = connection else { return work.await };
        tokio::select! {
            done = &mut work => return done,
            _ = moving => *connection = None,
        }
    }
}

/// A path with parameters behind it.
#[derive(Clone)]
pub struct Query {
    path: String,
    separator: char,
}

impl Query {
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self { path: path.to_owned(), separator: '?' }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        let value = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
        self.path.push(self.separator);
        self.path.push_str(&format!("{name}={value}"));
        self.separator = '&';
        self
    }

    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    #[must_use]
    pub fn into_path(self) -> String {
        self.path
    }
}

fn read<T: DeserializeOwned>(answer: &Answer, path: &str) -> anyhow::Result<T> {
    serde_json::from_slice(&answer.body)
        .with_context(|| format!("the answer to `{path}` is not what this version of sluice expects"))
}

trait Transport: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Transport for T {}

/// Trusts what the operating system trusts; SSL_CERT_FILE names other authorities.
fn tls() -> anyhow::Result<tokio_rustls::TlsConnector> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        bail!("there are no certificate authorities to trust: install ca-certificates or set SSL_CERT_FILE");
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(std::sync::Arc::new(config).into())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        if self.errors.is_empty() {
            if !self.detail.is_empty() {
                write!(f, ": {}", self.detail)?;
            }
        } else {
            write!(f, "\n{}", problems::list(&self.errors))?;
        }
        if self.status >= 500 && !self.request_id.is_empty() {
            write!(f, " (request {})", self.request_id)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
