//! OCSP responses (RFC 6960) as far as stapling needs them: is it one, is it about this certificate, until when.
//!
//! Whether its signature holds is for clients to check, who alone decide whom they trust.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};
use x509_parser::time::ASN1Time;

/// `id-pkix-ocsp-basic` (RFC 6960 section 4.2.1).
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// A response that may be stapled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    pub der: Vec<u8>,
    /// When there should be a newer one, in seconds since 1970; without it, the response has no end.
    pub next_update: Option<u64>,
}

/// Reads the written form: the response in DER as base64, with or without a PEM frame. `serial` is the number of the
/// certificate that it must be about.
pub fn read(text: &str, serial: &[u8]) -> Result<Staple, String> {
    let base64: String =
        text.lines().filter(|line| !line.starts_with("-----")).flat_map(str::split_whitespace).collect();
    let der = STANDARD.decode(base64).map_err(|_| "it is no base64".to_owned())?;
    let answers = answers(&der).ok_or("it is no OCSP response")??;
    let next_update = about(answers, serial).ok_or("it is no OCSP response")??;
    Ok(Staple { der, next_update })
}

/// The list of single answers inside.
fn answers(der: &[u8]) -> Option<Result<&[u8], String>> {
    let mut response = sequence(&mut { der })?;
    if element(&mut response, Class::Universal, Tag::Enumerated.0)? != [0] {
        return Some(Err("the responder could not answer: its status is not `successful`".to_owned()));
    }
    let mut explicit = element(&mut response, Class::ContextSpecific, 0)?;
    let mut bytes = sequence(&mut explicit)?;
    if element(&mut bytes, Class::Universal, Tag::Oid.0)? != BASIC {
        return Some(Err("it is not of the basic type".to_owned()));
    }
    let mut octets = element(&mut bytes, Class::Universal, Tag::OctetString.0)?;
    let mut basic = sequence(&mut octets)?;
    let mut data = sequence(&mut basic)?;
    let mut field = any(&mut data)?;
    // The version is left out if it is 1; then comes who answers, and when.
    if field.class() == Class::ContextSpecific && field.tag() == Tag(0) {
        field = any(&mut data)?;
    }
    if field.class() != Class::ContextSpecific || any(&mut data)?.tag() != Tag::GeneralizedTime {
        return None;
    }
    sequence(&mut data).map(Ok)
}

/// When there should be a newer answer about the certificate.
fn about(mut answers: &[u8], serial: &[u8]) -> Option<Result<Option<u64>, String>> {
    while !answers.is_empty() {
        let mut answer = sequence(&mut answers)?;
        let mut id = sequence(&mut answer)?;
        for _ in ["hash algorithm", "hash of the issuer's name", "hash of its key"] {
            any(&mut id)?;
        }
        if element(&mut id, Class::Universal, Tag::Integer.0)? != serial {
            continue;
        }
        if any(&mut answer)?.tag() != Tag(0) {
            return Some(Err("it says that the certificate is revoked or unknown".to_owned()));
        }
        let _this_update = element(&mut answer, Class::Universal, Tag::GeneralizedTime.0)?;
        let next = match element(&mut answer, Class::ContextSpecific, 0) {
            Some(explicit) => Some(ASN1Time::from_der(explicit).ok()?.1.timestamp()),
            None => None,
        };
        return Some(Ok(next.map(|time| u64::try_from(time).unwrap_or(0))));
    }
    Some(Err("it is about another certificate".to_owned()))
}

fn sequence<'d>(input: &mut &'d [u8]) -> Option<&'d [u8]> {
    element(input, Class::Universal, Tag::Sequence.0)
}

/// The content of the next element, which is taken if it is what it should be.
fn element<'d>(input: &mut &'d [u8], class: Class, tag: u32) -> Option<&'d [u8]> {
    let mut rest = *input;
    let found = any(&mut rest)?;
    if found.class() != class || found.tag() != Tag(tag) {
        return None;
    }
    *input = rest;
    Some(found.data)
}

fn any<'d>(input: &mut &'d [u8]) -> Option<Any<'d>> {
    let (rest, found) = Any::from_der(input).ok()?;
    *input = rest;
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag, 0x82];
        out.extend(u16::try_from(content.len()).expect("short").to_be_bytes());
        out.extend(content);
        out
    }

    /// An answer about the certificate `serial`; `status` is its tag.
    fn answer(serial: &[u8], status: u8, next_update: Option<&str>) -> Vec<u8> {
        let id = der(0x30, &[&der(0x30, &[]), &der(0x04, &[&[1; 20]]), &der(0x04, &[&[2; 20]]), &der(0x02, &[serial])]);
        let next = next_update.map(|time| der(0xa0, &[&der(0x18, &[time.as_bytes()])])).unwrap_or_default();
        der(0x30, &[&id, &der(status, &[]), &der(0x18, &[b"20260101000000Z"]), &next])
    }

    /// A response with these answers (RFC 6960 section 4.2.1).
    fn response(status: u8, answers: &[&[u8]]) -> Vec<u8> {
        let responder = der(0xa2, &[&der(0x04, &[&[3; 20]])]);
        let data = der(0x30, &[&responder, &der(0x18, &[b"20260101000000Z"]), &der(0x30, answers)]);
        let basic = der(0x30, &[&data, &der(0x30, &[]), &der(0x03, &[&[0; 9]])]);
        let bytes = der(0x30, &[&der(0x06, &[BASIC]), &der(0x04, &[&basic])]);
        der(0x30, &[&der(0x0a, &[&[status]]), &der(0xa0, &[&bytes])])
    }

    #[test]
    fn a_good_answer_about_the_certificate_is_taken_until_its_end() {
        let other = answer(&[8], 0x82, None);
        let der = response(0, &[&other, &answer(&[7, 7], 0x80, Some("20260102000000Z"))]);
        let expected = Staple { der: der.clone(), next_update: Some(1_767_312_000) };
        let base64 = STANDARD.encode(&der);
        let framed = format!("-----BEGIN OCSP RESPONSE-----\n{base64}\n-----END OCSP RESPONSE-----\n");
        for text in [
            &base64,
            &framed,
            &base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n"),
        ] {
            assert_eq!(read(text, &[7, 7]).as_ref(), Ok(&expected));
        }
        let endless = STANDARD.encode(response(0, &[&answer(&[7], 0x80, None)]));
        assert_eq!(read(&endless, &[7]).expect("it is good").next_update, None);
    }

    #[test]
    fn what_must_not_be_stapled_is_told() {
        let good = answer(&[7], 0x80, None);
        for (der, reason) in [
            (response(3, &[&good]), "its status is not `successful`"),
            (response(0, &[&answer(&[7], 0xa1, None)]), "revoked or unknown"),
            (response(0, &[&answer(&[8], 0x80, None)]), "about another certificate"),
            (response(0, &[]), "about another certificate"),
            (good, "no OCSP response"),
        ] {
            let error = read(&STANDARD.encode(der), &[7]).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(read("no*base64", &[7]), Err("it is no base64".to_owned()));
    }

    proptest! {
        #[test]
        fn any_bytes_may_come(bytes: Vec<u8>, place: prop::sample::Index, byte: u8) {
            let _ = read(&STANDARD.encode(bytes), &[7]);
            let mut changed = response(0, &[&answer(&[7], 0x80, Some("20260102000000Z"))]);
            *place.get_mut(&mut changed) = byte;
            let _ = read(&STANDARD.encode(changed), &[7]);
        }
    }
}
