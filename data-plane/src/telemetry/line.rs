//! One request as one line of JSON, appended to a buffer without allocating.

use std::io::Write;
use std::net::SocketAddr;

use time::OffsetDateTime;

use super::RequestRecord;

/// What a client may write into the log through one field.
const MAX_FIELD: usize = 256;

/// Formats lines; remembers the last second that it wrote out.
#[derive(Default)]
pub(super) struct Line {
    second: u64,
    /// `2026-11-24T04:45:41`
    date: String,
}

impl Line {
    pub(super) fn append(&mut self, record: &RequestRecord<'_>, out: &mut Vec<u8>) {
        self.time(record.time_unix_ms, out);
        text(out, "request_id", record.request_id);
        text(out, "method", record.method.as_str().as_bytes());
        text(out, "host", record.host.as_bytes());
        text(out, "path", record.path.as_bytes());
        if let Some(status) = record.status {
            number(out, "status", u64::from(status.as_u16()));
        }
        let names = [
            ("route", record.route.map(|(_, name)| name)),
            ("service", record.service.map(|(_, name)| name)),
            ("consumer", record.consumer),
            ("policy", record.policy),
        ];
        for (field, name) in names.into_iter().filter_map(|(field, name)| Some((field, name?))) {
            text(out, field, name.as_str().as_bytes());
        }
        if let Some(target) = record.target {
            text(out, "target", target.as_bytes());
        }
        if let Some(code) = record.code {
            text(out, "code", code.as_bytes());
        }
        number(out, "revision", record.revision);
        milliseconds(out, "duration_ms", record.duration_ns);
        if let Some(upstream_ns) = record.upstream_ns {
            milliseconds(out, "upstream_ms", upstream_ns);
        }
        if record.attempts > 1 {
            number(out, "attempts", record.attempts.into());
        }
        number(out, "bytes_in", record.bytes_in);
        number(out, "bytes_out", record.bytes_out);
        key(out, "client");
        out.push(b'"');
        address(out, record.client);
        out.push(b'"');
        if let Some(certificate) = record.client_certificate {
            let subject = certificate.subject.as_bytes();
            text(out, "client_subject", &subject[..subject.len().min(MAX_FIELD)]);
            text(out, "client_fingerprint", certificate.fingerprint.as_bytes());
        }
        text(out, "protocol", protocol(record.protocol).as_bytes());
        if let Some(agent) = record.user_agent {
            text(out, "user_agent", &agent[..agent.len().min(MAX_FIELD)]);
        }
        out.extend_from_slice(b"}\n");
    }

    /// Opens the line with the time, in the form of RFC 3339.
    fn time(&mut self, unix_ms: u64, out: &mut Vec<u8>) {
        let second = unix_ms / 1000;
        if self.second != second || self.date.is_empty() {
            self.second = second;
            let moment = i64::try_from(second).ok().and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
            let moment = moment.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let (date, time) = (moment.date(), moment.time());
            self.date = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                date.year(),
                u8::from(date.month()),
                date.day(),
                time.hour(),
                time.minute(),
                time.second()
            );
        }
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(self.date.as_bytes());
        out.push(b'.');
        three_digits(out, unix_ms % 1000);
        out.extend_from_slice(b"Z\"");
    }
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    digits(out, value);
}

fn milliseconds(out: &mut Vec<u8>, name: &str, ns: u64) {
    key(out, name);
    let us = ns / 1000;
    digits(out, us / 1000);
    out.push(b'.');
    three_digits(out, us % 1000);
}

fn digits(out: &mut Vec<u8>, mut value: u64) {
    let mut text = [0; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = digit(value);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[start..]);
}

fn three_digits(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&[digit(value / 100), digit(value / 10), digit(value)]);
}

fn digit(value: u64) -> u8 {
    b"0123456789"[usize::try_from(value % 10).expect("a digit")]
}

/// The formatter of the standard library takes longer for an address than all the rest of a line does.
fn address(out: &mut Vec<u8>, address: SocketAddr) {
    let SocketAddr::V4(address) = address else {
        return write!(out, "{address}").expect("a Vec takes all that is written");
    };
    for (index, octet) in address.ip().octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        digits(out, u64::from(octet));
    }
    out.push(b':');
    digits(out, u64::from(address.port()));
}

fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(out, name);
    out.push(b'"');
    // Without an early end the compiler looks at many bytes at once.
    let is_strange = |byte: &u8| !(b' '..=b'~').contains(byte) | (*byte == b'"') | (*byte == b'\\');
    if !value.iter().fold(false, |strange, byte| strange | is_strange(byte)) {
        out.extend_from_slice(value);
    } else {
        escape(out, value);
    }
    out.push(b'"');
}

/// What came from outside may hold quotes, control characters that a terminal obeys, and bytes that are no text:
/// those become the replacement character.
#[cold]
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            '"' | '\\' => out.extend_from_slice(&[b'\\', u8::try_from(character).expect("ASCII")]),
            _ if character.is_control() => {
                write!(out, "\\u{:04x}", u32::from(character)).expect("a Vec takes all that is written");
            }
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use proptest::prelude::*;

    use super::*;

    fn record<'a>(path: &'a str, agent: &'a [u8], method: &'a Method) -> RequestRecord<'a> {
        RequestRecord {
            time_unix_ms: 1_795_495_541_007,
            request_id: b"id",
            method,
            host: "a.example",
            path,
            protocol: http::Version::HTTP_2,
            client: "[::1]:80".parse().expect("an address"),
            client_certificate: None,
            user_agent: Some(agent),
            route: None,
            service: None,
            target: Some("127.0.0.1:80"),
            consumer: None,
            status: Some(StatusCode::OK),
            code: None,
            policy: None,
            revision: u64::MAX,
            duration_ns: 1_002_999,
            upstream_ns: Some(0),
            attempts: 1,
            bytes_in: 0,
            bytes_out: 10,
        }
    }

    #[test]
    fn a_line_reads_like_this() {
        let name = "shop".parse().expect("a name");
        let mut record = record("/a", b"curl", &Method::GET);
        record.route = Some((3, &name));
        record.code = Some("no-route");
        let mut out = Vec::new();
        Line::default().append(&record, &mut out);
        let expected = concat!(
            r#"{"time":"2026-11-24T04:45:41.007Z","request_id":"id","method":"GET","host":"a.example","path":"/a","#,
            r#""status":200,"route":"shop","target":"127.0.0.1:80","code":"no-route","revision":18446744073709551615,"#,
            r#""duration_ms":1.002,"upstream_ms":0.000,"bytes_in":0,"bytes_out":10,"client":"[::1]:80","#,
            r#""protocol":"HTTP/2","user_agent":"curl"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    proptest! {
        /// Whatever a client sends, a line is one line of JSON and says what the client sent.
        #[test]
        fn hostile_bytes_stay_inside_their_field(
            path in "\\PC*|[\\x00-\\x7f]*|[\\u{80}-\\u{ffff}]*",
            agent in proptest::collection::vec(any::<u8>(), 0..300),
            ms in 0u64..4_000_000_000_000,
            client in any::<(std::net::IpAddr, u16)>()
        ) {
            let mut record = record(&path, &agent, &Method::GET);
            record.client = client.into();
            record.time_unix_ms = ms;
            let mut out = Vec::new();
            let mut line = Line::default();
            line.append(&record, &mut out);
            line.append(&record, &mut out);
            let text = String::from_utf8(out).expect("a log is text");
            prop_assert_eq!(text.lines().count(), 2);
            for line in text.lines() {
                prop_assert!(!line.chars().any(char::is_control));
                let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                prop_assert_eq!(value["path"].as_str(), Some(path.as_str()));
                prop_assert_eq!(value["client"].as_str(), Some(&*record.client.to_string()));
                let trimmed = String::from_utf8_lossy(&agent[..agent.len().min(MAX_FIELD)]);
                prop_assert_eq!(value["user_agent"].as_str(), Some(&*trimmed));
                let time = value["time"].as_str().expect("a time");
                let moment = OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339);
                let moment = moment.expect("RFC 3339").unix_timestamp_nanos() / 1_000_000;
                prop_assert_eq!(moment, i128::from(ms));
            }
        }
    }
}
