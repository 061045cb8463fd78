//! What the machine says about names: its name servers and search domains, and the names in its file of hosts.
//!
//! Both files are read again when they have changed. Other sources of the C library (`nsswitch.conf`) are not asked.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::Hosts;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::time::Instant;

use super::ask::Servers;

/// How often files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most name servers and search domains that count, as many as in glibc.
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 6;

/// Where no file says whom to ask (resolv.conf(5)).
const LOCAL_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// What the machine says about names.
pub struct System {
    resolv_conf: File,
    hosts_file: File,
    looked_at: Option<Instant>,
    names: Arc<Naming>,
    hosts: Arc<Hosts>,
}

/// How names are asked for.
pub struct Naming {
    pub servers: Arc<Servers>,
    search: Vec<Name>,
    ndots: usize,
}

struct File {
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

impl System {
    pub fn new(resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        let file = |path| File { path, seen: None };
        let names = Arc::new(Naming::of([LOCAL_SERVER]));
        Self { resolv_conf: file(resolv_conf), hosts_file: file(hosts), looked_at: None, names, hosts: Arc::default() }
    }

    /// As it is now.
    pub fn look(&mut self, now: Instant) -> (Arc<Naming>, Arc<Hosts>) {
        if self.looked_at.is_none_or(|at| now >= at + LOOK_EVERY) {
            self.looked_at = Some(now);
            if self.resolv_conf.has_changed() {
                self.names = Arc::new(self.resolv_conf.naming());
            }
            if self.hosts_file.has_changed() {
                self.hosts = Arc::new(self.hosts_file.hosts());
            }
        }
        (Arc::clone(&self.names), Arc::clone(&self.hosts))
    }
}

impl File {
    fn has_changed(&mut self) -> bool {
        let read = fs::metadata(&self.path).and_then(|file| Ok((file.modified()?, file.len())));
        let now = read.ok();
        std::mem::replace(&mut self.seen, now) != now
    }

    fn naming(&self) -> Naming {
        let read = fs::read(&self.path).map_err(|error| error.to_string());
        let parsed = read.and_then(|bytes| parse_resolv_conf(bytes).map_err(|error| error.to_string()));
        match parsed {
            Ok((config, options)) => {
                let servers = config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53));
                let search = config.search().iter().take(MAX_SEARCH).cloned().collect();
                Naming { search, ndots: options.ndots, ..Naming::of(servers.take(MAX_SERVERS)) }
            }
            Err(error) => {
                let path = self.path.display();
                tracing::warn!("{path} names no name server, so that {LOCAL_SERVER} is asked: {error}");
                Naming::of([LOCAL_SERVER])
            }
        }
    }

    fn hosts(&self) -> Hosts {
        let mut hosts = Hosts::default();
        if let Err(error) = fs::File::open(&self.path).and_then(|file| hosts.read_hosts_conf(file)) {
            tracing::warn!("names in {} do not count: {error}", self.path.display());
        }
        hosts
    }
}

impl Naming {
    pub fn of(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { servers: Arc::new(Servers::new(servers)), search: Vec::new(), ndots: 1 }
    }

    /// The names to ask for, until one of them is there. A name with a dot comes first as it is, so that none of the search
    /// domains can take its place (RFC 1535); one that ends in a dot is nothing else.
    pub fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut full = name.clone();
        full.set_fqdn(true);
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        if name.is_fqdn() || dots >= self.ndots {
            return vec![full];
        }
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        names.iter_mut().for_each(|name| name.set_fqdn(true));
        let place = if dots == 0 { names.len() } else { 0 };
        names.insert(place, full);
        names
    }
}

/// The addresses that the machine itself gives to a name. `localhost` is nobody else whatever a server says (RFC 6761
/// section 6.3).
pub fn addresses(hosts: &Hosts, name: &Name, types: &[RecordType]) -> Vec<IpAddr> {
    let found = types.iter().filter_map(|of_type| hosts.lookup_static_host(&Query::query(name.clone(), *of_type)));
    let mut addresses: Vec<IpAddr> = found
        .flat_map(|lookup| lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
        .collect();
    if addresses.is_empty() && name.is_localhost() {
        addresses.extend(types.iter().filter_map(|of_type| match of_type {
            RecordType::A => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            RecordType::AAAA => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            _ => None,
        }));
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    #[test]
    fn search_domains_come_after_a_name_with_a_dot_and_before_one_without() {
        let naming = |ndots| Naming { search: vec![name("a.test"), name("b.test")], ndots, ..Naming::of([]) };
        let candidates = |ndots, text: &str| -> Vec<String> {
            naming(ndots).candidates(&name(text)).iter().map(Name::to_ascii).collect()
        };
        assert_eq!(candidates(1, "orders"), ["orders.a.test.", "orders.b.test.", "orders."]);
        assert_eq!(candidates(1, "orders.shop"), ["orders.shop."]);
        assert_eq!(candidates(5, "orders.shop"), ["orders.shop.", "orders.shop.a.test.", "orders.shop.b.test."]);
        assert_eq!(candidates(5, "orders."), ["orders."]);
    }

    #[test]
    fn files_count_as_they_are_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let (resolv_conf, hosts) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
        let mut system = System::new(resolv_conf.clone(), hosts.clone());
        let mut now = Instant::now();
        let found = |hosts: &Hosts, text: &str| addresses(hosts, &name(text), &[RecordType::A, RecordType::AAAA]);

        let (naming, read) = system.look(now);
        assert_eq!(naming.candidates(&name("orders")), [name("orders.")]);
        assert!(found(&read, "orders").is_empty());
        assert_eq!(found(&read, "localhost"), [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);

        fs::write(&resolv_conf, "nameserver 10.0.0.2\nsearch shop.test\n").expect("a file");
        fs::write(&hosts, "10.0.0.7 orders Orders.Shop # and more\n::7 orders\nnonsense\n").expect("a file");
        now += LOOK_EVERY;
        let (naming, read) = system.look(now);
        assert_eq!(naming.candidates(&name("orders")), [name("orders.shop.test."), name("orders.")]);
        assert_eq!(found(&read, "orders"), ["10.0.0.7".parse::<IpAddr>().expect("one"), "::7".parse().expect("one")]);
        assert_eq!(found(&read, "orders.shop.").len(), 1);

        fs::write(&hosts, "127.0.0.2 localhost\n").expect("a file");
        now += LOOK_EVERY;
        let (_, read) = system.look(now);
        assert!(found(&read, "orders").is_empty());
        assert_eq!(found(&read, "localhost"), ["127.0.0.2".parse::<IpAddr>().expect("one")]);
    }
}
