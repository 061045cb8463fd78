//! A name server on loopback, UDP and TCP on one port, that answers as a test says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

/// What is said to a question about a name and a type.
#[derive(Clone, Debug)]
pub enum Say {
    /// These records, whatever they are, with this code.
    This(ResponseCode, Vec<Record>),
    /// The same over TCP; over UDP that it did not fit.
    Long(Vec<Record>),
    /// An answer to a question that nobody asked, and nothing else.
    Forged(Vec<Record>),
    Silence,
}

type Zone = HashMap<(String, RecordType), Say>;

pub struct NameServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

#[derive(Default)]
struct Shared {
    zone: Mutex<Zone>,
    asked: AtomicUsize,
    asked_over_tcp: AtomicUsize,
}

impl NameServer {
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
            // The same port may be taken for the other protocol.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(serve_udp(udp, Arc::clone(&shared)))),
            AbortOnDropHandle::new(tokio::spawn(serve_tcp(tcp, Arc::clone(&shared)))),
        ];
        Self { address, shared, _tasks: tasks }
    }

    /// From now on; about what it was not told of there is nothing.
    pub fn say(&self, name: &str, of_type: RecordType, say: Say) {
        self.shared.zone.lock().insert((name.to_owned(), of_type), say);
    }

    pub fn say_records(&self, name: &str, of_type: RecordType, records: Vec<Record>) {
        self.say(name, of_type, Say::This(ResponseCode::NoError, records));
    }

    /// How many questions came.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    pub fn asked_over_tcp(&self) -> usize {
        self.shared.asked_over_tcp.load(Ordering::SeqCst)
    }
}

pub fn address(owner: &str, ttl: u32, address: &str) -> Record {
    let data = match address.parse().expect("an address") {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

pub fn alias(owner: &str, ttl: u32, of: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(of))))
}

pub fn service(owner: &str, ttl: u32, (priority, weight, port): (u16, u16, u16), host: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::SRV(SRV::new(priority, weight, port, name(host))))
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

async fn serve_udp(socket: UdpSocket, shared: Arc<Shared>) {
    let mut question = [0; 4096];
    while let Ok((len, from)) = socket.recv_from(&mut question).await {
        if let Some(answer) = shared.answer(&question[..len], false) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok(len) = stream.read_u16().await {
                let mut question = vec![0; len.into()];
                if stream.read_exact(&mut question).await.is_err() {
                    return;
                }
                let Some(answer) = shared.answer(&question, true) else { continue };
                let len = u16::try_from(answer.len()).expect("an answer is no longer");
                let sent = [&len.to_be_bytes()[..], &answer].concat();
                if stream.write_all(&sent).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Shared {
    fn answer(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.asked_over_tcp.fetch_add(usize::from(over_tcp), Ordering::SeqCst);
        let question = Message::from_vec(question).expect("a question");
        let query = question.queries[0].clone();
        let key = (query.name().to_ascii().to_ascii_lowercase(), query.query_type());
        let said = self.zone.lock().get(&key).cloned();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query);
        match said.unwrap_or(Say::This(ResponseCode::NXDomain, Vec::new())) {
            Say::This(code, records) => {
                answer.metadata.response_code = code;
                answer.add_answers(records);
            }
            Say::Long(_) if !over_tcp => answer.metadata.truncation = true,
            Say::Long(records) => drop(answer.add_answers(records)),
            Say::Forged(records) => {
                answer.queries[0].set_name(name("another.test."));
                answer.add_answers(records);
            }
            Say::Silence => return None,
        }
        Some(answer.to_vec().expect("an answer"))
    }
}
