//! The certificate that a client has proved to hold, as policies and the log see it.

use std::fmt::Write;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::digest::sha256;

/// A certificate of a client, checked against the authorities of the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Distinguished name in the form of RFC 4514: `CN=orders,O=Acme`. Two names are written alike only if they are
    /// alike.
    pub subject: String,
    pub names: Vec<AlternativeName>,
    /// SHA-256 of the whole certificate, in lower-case hexadecimal.
    pub fingerprint: String,
}

/// A subject alternative name (RFC 5280 section 4.2.1.6). Those of other types, and those with characters that cannot
/// be part of one, are left away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    Dns(String),
    Uri(String),
    Email(String),
    Ip(IpAddr),
}

impl ClientCertificate {
    /// Reads a certificate in DER.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        Some(Self {
            subject: distinguished_name(parsed.subject())?,
            names: names.filter_map(AlternativeName::read).collect(),
            fingerprint: hexadecimal(&sha256(der)),
        })
    }
}

impl AlternativeName {
    fn read(name: &GeneralName<'_>) -> Option<Self> {
        let text = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| text.to_owned());
        match name {
            GeneralName::DNSName(name) => text(name).map(Self::Dns),
            GeneralName::URI(name) => text(name).map(Self::Uri),
            GeneralName::RFC822Name(name) => text(name).map(Self::Email),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| Self::Ip(bytes.into())),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| Self::Ip(bytes.into())),
                _ => None,
            },
            _ => None,
        }
    }
}

/// RFC 4514 section 2: the last part first.
fn distinguished_name(name: &X509Name<'_>) -> Option<String> {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            write_attribute(attribute, &mut text)?;
        }
    }
    Some(text)
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) -> Option<()> {
    let oid = attribute.attr_type().to_id_string();
    let short = match &*oid {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => &oid,
    };
    text.push_str(short);
    text.push('=');
    match attribute.as_str() {
        Ok(value) if short != oid => write_escaped(value, text),
        // Of what is not known, the encoding.
        _ => {
            let encoded = attribute.attr_value();
            let bytes = x509_parser::asn1_rs::ToDer::to_der_vec(encoded).ok()?;
            write!(text, "#{}", hexadecimal(&bytes)).ok()?;
        }
    }
    Some(())
}

/// RFC 4514 section 2.4.
fn write_escaped(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            '#' if index == 0 => text.push_str("\\#"),
            ' ' if index == 0 || index == last => text.push_str("\\ "),
            _ if character.is_control() => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    write!(text, "\\{byte:02x}").expect("writing to a string cannot fail");
                }
            }
            _ => text.push(character),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn made(params: &CertificateParams) -> (ClientCertificate, Vec<u8>) {
        let der = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec();
        (ClientCertificate::from_der(&der).expect("it can be read"), der)
    }

    fn subject(parts: &[(DnType, DnValue)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        made(&params).0.subject
    }

    #[test]
    fn it_is_read_with_all_its_names() {
        let mut params = CertificateParams::new(["orders.acme.example".to_owned()]).expect("a name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc.");
        params.distinguished_name.push(DnType::CommonName, "orders");
        params.subject_alt_names.extend([
            SanType::URI("spiffe://acme/orders".try_into().expect("ASCII")),
            SanType::Rfc822Name("ops@acme.example".try_into().expect("ASCII")),
            SanType::IpAddress(IpAddr::from([10, 0, 0, 1])),
            SanType::DnsName("good.example\0.evil.example".try_into().expect("ASCII")),
        ]);
        let (read, der) = made(&params);
        assert_eq!(read.subject, r"CN=orders,O=Acme\, Inc.");
        assert_eq!(
            read.names,
            [
                AlternativeName::Dns("orders.acme.example".to_owned()),
                AlternativeName::Uri("spiffe://acme/orders".to_owned()),
                AlternativeName::Email("ops@acme.example".to_owned()),
                AlternativeName::Ip(IpAddr::from([10, 0, 0, 1])),
            ]
        );
        assert_eq!(read.fingerprint, hexadecimal(&sha256(&der)));
        assert_eq!(ClientCertificate::from_der(b"no certificate"), None);
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_says() {
        let text = |text: &str| DnValue::from(text);
        for (parts, expected) in [
            (vec![(DnType::CommonName, text(" a "))], r"CN=\ a\ "),
            (vec![(DnType::CommonName, text("#a#"))], r"CN=\#a#"),
            (vec![(DnType::CommonName, text("a\nb\0"))], r"CN=a\0ab\00"),
            (vec![(DnType::CommonName, text("Jürgen"))], "CN=Jürgen"),
            (vec![(DnType::CustomDnType(vec![1, 2, 3]), text("x"))], "1.2.3=#0c0178"),
            (vec![(DnType::CountryName, text("DE")), (DnType::CommonName, text("a"))], "CN=a,C=DE"),
            (vec![], ""),
        ] {
            assert_eq!(subject(&parts), expected);
        }
    }

    proptest! {
        /// Nobody can write himself a name that looks like that of another.
        #[test]
        fn different_subjects_look_different(one: [String; 2], other: [String; 2]) {
            let named = |[name, company]: &[String; 2]| {
                subject(&[(DnType::OrganizationName, DnValue::from(&**company)), (DnType::CommonName, DnValue::from(&**name))])
            };
            prop_assert_eq!(named(&one) == named(&other), one == other);
            let alone = subject(&[(DnType::CommonName, DnValue::from(format!("{},O={}", one[0], one[1])))]);
            prop_assert_ne!(named(&one), alone);
        }

        #[test]
        fn any_bytes_may_come(bytes: Vec<u8>) {
            let _ = ClientCertificate::from_der(&bytes);
        }
    }
}
