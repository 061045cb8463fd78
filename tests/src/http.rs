//! A blocking HTTP/1.1 client that does nothing on its own: no retries, no redirects, no pool.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One connection.
pub struct Connection {
    stream: TcpStream,
    held: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, held: Vec::new() })
    }

    /// Sends a request; Content-Length is added when there is a body.
    pub fn send(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let mut request = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in fields {
            request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() {
            request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.write(&request)?;
        self.read_answer(method != "HEAD")
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Reads one answer: by Content-Length, chunked, or until the end.
    pub fn read_answer(&mut self, has_body: bool) -> Result<Answer> {
        let head_end = loop {
            if let Some(end) = find(&self.held, b"\r\n\r\n") {
                break end;
            }
            if self.fill()? == 0 {
                bail!("the connection was closed before the answer's head ended");
            }
        };
        let head: Vec<u8> = self.held.drain(..head_end + 4).collect();
        let head = String::from_utf8(head)?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.get(9..12)).context("no status line")?.parse()?;
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, fields, body: Vec::new() };
        if has_body && status >= 200 && status != 204 && status != 304 {
            answer.body = self.read_body(&answer)?;
        }
        Ok(answer)
    }

    fn read_body(&mut self, answer: &Answer) -> Result<Vec<u8>> {
        if let Some(length) = answer.field("content-length") {
            return self.take(length.parse()?);
        }
        if answer.field("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line = self.take_line()?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
                if size == 0 {
                    while !self.take_line()?.is_empty() {}
                    return Ok(body);
                }
                body.extend(self.take(size)?);
                self.take_line()?;
            }
        }
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.held))
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.held.len() < count {
            if self.fill()? == 0 {
                bail!("the connection was closed within a body");
            }
        }
        Ok(self.held.drain(..count).collect())
    }

    fn take_line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = find(&self.held, b"\r\n") {
                let line: Vec<u8> = self.held.drain(..end + 2).collect();
                return Ok(String::from_utf8(line)?.trim_end().to_owned());
            }
            if self.fill()? == 0 {
                bail!("the connection was closed within a body");
            }
        }
    }

    fn fill(&mut self) -> Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer)?;
        self.held.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, host: &str, target: &str) -> Result<Answer> {
    Connection::open(address)?.send("GET", target, &[("Host", host), ("Connection", "close")], b"")
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
