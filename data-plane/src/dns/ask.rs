//! One question to name servers, and what the answer says.
//!
//! The library asks over UDP, again while nothing comes, and over TCP when an answer was cut off (RFC 7766). What is
//! believed of an answer is decided here: records of the name that was asked for, or of the name that its aliases lead to
//! (RFC 1035 section 3.6.2), and nothing else that a server may have put in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

/// How long one name server has for its answer, before the next is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long all of them together have.
const ALL_WITHIN: Duration = Duration::from_secs(8);

/// Aliases in a row.
const MAX_ALIASES: usize = 8;

/// Records of one answer. Of more, the first in order are taken, so that all nodes take the same.
pub const MAX_RECORDS: usize = 1024;

/// What records say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    Address(IpAddr),
    /// SRV (RFC 2782).
    Service {
        priority: u16,
        weight: u16,
        port: u16,
        host: String,
    },
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// At least one record, in order.
    Records { records: Arc<[Record]>, ttl: Duration },
    /// There is no such name, or it has no such records.
    Nothing { ttl: Duration },
    /// No server gave an answer.
    Failed(String),
}

/// Name servers that know the same.
pub struct Servers {
    /// The pool of the library gives up at the first error that a server answers, where the next one may know better: so
    /// each server has a pool of its own.
    pools: Vec<(SocketAddr, NameServerPool<TokioRuntimeProvider>)>,
    /// The one that answered last is asked first.
    first: AtomicUsize,
}

impl Servers {
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut options = ResolverOpts::default();
        options.timeout = ANSWER_WITHIN;
        let tls = TlsConfig::new().expect("without TLS there is nothing to go wrong");
        let context = Arc::new(PoolContext::new(options, tls));
        let pools = addresses.into_iter().map(|address| {
            let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
                let mut connection = ConnectionConfig::new(protocol);
                connection.port = address.port();
                connection
            });
            let server = NameServerConfig::new(address.ip(), true, connections.to_vec());
            (address, NameServerPool::from_config([server], Arc::clone(&context), TokioRuntimeProvider::default()))
        });
        Self { pools: pools.collect(), first: AtomicUsize::new(0) }
    }

    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        self.pools.iter().map(|(address, _)| *address).collect()
    }

    pub async fn ask(&self, name: &Name, of_type: RecordType) -> Reply {
        let asking = tokio::time::timeout(ALL_WITHIN, self.ask_along(name, of_type));
        asking.await.unwrap_or_else(|_| Reply::Failed(format!("no answer within {ALL_WITHIN:?}")))
    }

    /// Follows aliases whose end a server does not tell of itself.
    async fn ask_along(&self, name: &Name, of_type: RecordType) -> Reply {
        let mut aliases = 0;
        let (mut name, mut least_ttl) = (name.clone(), u32::MAX);
        loop {
            match self.ask_each(&name, of_type).await {
                Read::Done(Reply::Records { records, ttl }) => {
                    return Reply::Records { records, ttl: ttl.min(seconds(least_ttl)) };
                }
                Read::Done(other) => return other,
                Read::Alias { of, ttl, steps } => {
                    aliases += steps;
                    if aliases > MAX_ALIASES {
                        return Reply::Failed(format!("more than {MAX_ALIASES} aliases in a row"));
                    }
                    (name, least_ttl) = (of, least_ttl.min(ttl));
                }
            }
        }
    }

    /// Asks one server after the other, until one has an answer.
    async fn ask_each(&self, name: &Name, of_type: RecordType) -> Read {
        let first = self.first.load(Ordering::Relaxed);
        let mut failure = "there is no name server".to_owned();
        for step in 0..self.pools.len() {
            let place = (first + step) % self.pools.len();
            let (address, pool) = &self.pools[place];
            let query = Query::query(name.clone(), of_type);
            let asking = pool.lookup(query.clone(), DnsRequestOptions::default()).first_answer();
            let answered = match tokio::time::timeout(ANSWER_WITHIN, asking).await {
                Ok(Ok(response)) => read(&response, &query),
                Ok(Err(error)) => {
                    nothing(&error).map(|ttl| Read::Done(Reply::Nothing { ttl })).ok_or_else(|| reason(&error))
                }
                Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
            };
            match answered {
                Ok(read) => {
                    self.first.store(place, Ordering::Relaxed);
                    return read;
                }
                Err(reason) => failure = format!("{address}: {reason}"),
            }
        }
        Read::Done(Reply::Failed(failure))
    }
}

enum Read {
    Done(Reply),
    /// It leads to another name, of which it says nothing.
    Alias {
        of: Name,
        ttl: u32,
        steps: usize,
    },
}

/// What a response says about the question, or why it is none.
fn read(response: &Message, query: &Query) -> Result<Read, String> {
    if response.queries != [query.clone()] {
        return Err("an answer to another question".to_owned());
    }
    if !matches!(response.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(response.metadata.response_code.to_string());
    }
    let (mut owner, mut least_ttl, mut steps) = (query.name(), u32::MAX, 0);
    loop {
        let of_owner = || response.answers.iter().filter(|record| record.name == *owner);
        let found: Vec<_> = of_owner().filter(|record| record.record_type() == query.query_type()).collect();
        if !found.is_empty() {
            let ttl = found.iter().map(|record| record.ttl).fold(least_ttl, u32::min);
            let records: Vec<Record> = found.into_iter().filter_map(|record| in_short(&record.data)).collect();
            return Ok(Read::Done(reply(records, seconds(ttl))));
        }
        let alias = of_owner().find_map(|record| match &record.data {
            RData::CNAME(alias) => Some((&alias.0, record.ttl)),
            _ => None,
        });
        match alias {
            Some((alias, ttl)) if steps < MAX_ALIASES => {
                (owner, least_ttl, steps) = (alias, least_ttl.min(ttl), steps + 1);
            }
            Some(_) => return Err(format!("more than {MAX_ALIASES} aliases in a row")),
            None if steps == 0 || response.metadata.response_code == ResponseCode::NXDomain => {
                return Ok(Read::Done(Reply::Nothing { ttl: Duration::ZERO }));
            }
            None => return Ok(Read::Alias { of: owner.clone(), ttl: least_ttl, steps }),
        }
    }
}

fn reply(mut records: Vec<Record>, ttl: Duration) -> Reply {
    records.sort_unstable();
    records.dedup();
    records.truncate(MAX_RECORDS);
    if records.is_empty() { Reply::Nothing { ttl } } else { Reply::Records { records: records.into(), ttl } }
}

/// Without what no connection can be made to. The host `.` says that the service is decidedly not there (RFC 2782).
fn in_short(data: &RData) -> Option<Record> {
    match data {
        RData::A(address) => Some(Record::Address(address.0.into())),
        RData::AAAA(address) => Some(Record::Address(address.0.into())),
        RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => {
            let host = srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            Some(Record::Service { priority: srv.priority, weight: srv.weight, port: srv.port, host })
        }
        _ => None,
    }
}

/// For how long there is nothing, if that is what a server says (RFC 2308 section 5).
fn nothing(error: &NetError) -> Option<Duration> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => Some(seconds(none.negative_ttl.unwrap_or(0))),
        _ => None,
    }
}

fn reason(error: &NetError) -> String {
    match error {
        NetError::Timeout => format!("no answer within {ANSWER_WITHIN:?}"),
        NetError::Dns(DnsError::ResponseCode(code)) => code.to_string(),
        other => other.to_string(),
    }
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}
