//! Where the gateway takes part in a gRPC call itself: its deadline, and how it ends when the service does not end it
//! (gRPC over HTTP/2, Requests and Responses).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use model::fields::Fields;
use model::rejection::Rejection;

use crate::body::Failure;

pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: &str = "grpc-timeout";

pub const DEADLINE_EXCEEDED: u16 = 4;
pub const UNAVAILABLE: u16 = 14;

/// How long the client will wait for the end of its call, if it says so: up to eight digits and a unit.
pub fn timeout(headers: &Fields) -> Result<Option<Duration>, Rejection> {
    let Some(written) = headers.get(TIMEOUT) else { return Ok(None) };
    let read = || {
        let (unit, digits) = written.split_last()?;
        if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
        Some(match unit {
            b'H' => Duration::from_secs(amount * 3600),
            b'M' => Duration::from_secs(amount * 60),
            b'S' => Duration::from_secs(amount),
            b'm' => Duration::from_millis(amount),
            b'u' => Duration::from_micros(amount),
            b'n' => Duration::from_nanos(amount),
            _ => return None,
        })
    };
    match read() {
        Some(timeout) => Ok(Some(timeout)),
        None => {
            let detail = "The field `grpc-timeout` is not up to eight digits and one of H, M, S, m, u and n.";
            Err(Rejection::new(StatusCode::BAD_REQUEST, "grpc-timeout-invalid", detail))
        }
    }
}

/// The trailers in place of those that an answer which broke off never gets.
pub fn farewell(failure: Failure) -> HeaderMap {
    let (status, message) = match failure {
        Failure::Late => (DEADLINE_EXCEEDED, "The call was not complete in time."),
        _ => (UNAVAILABLE, "The answer of the service broke off."),
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(status));
    trailers.insert(MESSAGE, HeaderValue::from_static(message));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: &'static str) -> Result<Option<Duration>, &'static str> {
        let mut headers = Fields::default();
        headers.append(&HeaderName::from_static(TIMEOUT), &HeaderValue::from_static(written));
        timeout(&headers).map_err(|rejection| rejection.code)
    }

    #[test]
    fn timeouts_have_a_unit() {
        for (written, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0S", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(read(written), Ok(Some(expected)), "{written}");
        }
        for written in ["", "1", "S", "123456789S", "-1S", "+1S", "1.5S", "1s", " 1S", "1S ", "1SS"] {
            assert_eq!(read(written), Err("grpc-timeout-invalid"), "{written:?}");
        }
        assert_eq!(timeout(&Fields::default()).ok(), Some(None));
    }
}
