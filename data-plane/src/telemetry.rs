//! What the node tells about itself: metrics, the access log, and the port where operators and probes ask.
//!
//! A core counts in plain cells of its own and formats log lines into a buffer of its own. Others get at them by
//! asking the core; no request waits for a reader, and nothing here is shared between cores while they serve.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use model::exchange::ClientCertificate;
use model::resource::Name;
use model::slots::Slot;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::traffic::Totals;
use crate::clock::{Clock, Deadline};
use crate::health::Health;

pub use access_log::AccessLog;
pub use core_metrics::{CoreMetrics, EndpointCounts, ServiceCounts};
pub use node_state::NodeState;
pub use process::{cpu_time, resident_bytes};
pub use shard::Shard;

mod access_log;
mod core_metrics;
mod exposition;
mod histogram;
mod line;
pub mod node_port;
mod node_state;
mod process;
mod shard;
#[cfg(test)]
mod tests;
pub mod traffic;

/// One request that has ended: what the access log and the metrics are made from.
pub struct RequestRecord<'a> {
    /// Milliseconds since 1970, when the request came in.
    pub time_unix_ms: u64,
    pub request_id: &'a [u8],
    pub method: &'a Method,
    pub host: &'a str,
    /// The canonical path, without query.
    pub path: &'a str,
    pub protocol: http::Version,
    pub client: SocketAddr,
    /// What the client has proved to hold.
    pub client_certificate: Option<&'a ClientCertificate>,
    pub user_agent: Option<&'a [u8]>,
    pub route: Option<(Slot, &'a Name)>,
    pub service: Option<(Slot, &'a Name)>,
    /// `host:port` of the target that answered or was tried last.
    pub target: Option<&'a str>,
    pub consumer: Option<&'a Name>,
    /// What the client got; absent if it left before there was a head.
    pub status: Option<StatusCode>,
    /// The code of the rejection or failure, if the gateway answered itself.
    pub code: Option<&'static str>,
    /// The policy that rejected.
    pub policy: Option<&'a Name>,
    pub revision: u64,
    pub duration_ns: u64,
    /// From sending the request to a target until the head of its response.
    pub upstream_ns: Option<u64>,
    /// How often the service was tried.
    pub attempts: u8,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// The telemetry of the process; cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    pub node: Arc<NodeState>,
    pub health: Health,
    log: Option<AccessLog>,
    cores: Arc<Mutex<Vec<mpsc::Sender<Question>>>>,
}

/// A core answers with its counts, or with their sum.
enum Question {
    Counts(oneshot::Sender<Shard>),
    Totals(oneshot::Sender<Totals>),
}

/// How long a scrape waits for a core that is busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How often a core hands its log lines over when there are too few to fill a batch.
const HAND_OVER_EVERY: Duration = Duration::from_millis(100);

/// A place for the telemetry of one core, to be taken on the core's own thread.
pub struct Seat {
    health: Health,
    log: Option<AccessLog>,
    questions: mpsc::Receiver<Question>,
}

/// The telemetry of one core.
pub struct CoreTelemetry {
    pub metrics: CoreMetrics,
    pub health: Health,
    log: Option<access_log::CoreLog>,
}

impl Telemetry {
    /// Starts the writer of the access log, to standard output, unless there shall be none.
    pub fn start(access_log: bool) -> io::Result<Self> {
        Ok(if access_log { Self::with_log_to(Box::new(access_log::stdout()?))? } else { Self::without_log() })
    }

    #[must_use]
    pub fn without_log() -> Self {
        Self { node: Arc::new(NodeState::new()), health: Health::default(), log: None, cores: Arc::default() }
    }

    /// Writes the access log somewhere else.
    pub fn with_log_to(sink: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(Self { log: Some(AccessLog::start(sink)?), ..Self::without_log() })
    }

    /// A place for one more core.
    #[must_use]
    pub fn seat(&self) -> Seat {
        let (ask, questions) = mpsc::channel(4);
        self.cores.lock().push(ask);
        Seat { health: self.health.clone(), log: self.log.clone(), questions }
    }

    /// The counts of all cores together. A core that does not answer in time is left out of this scrape.
    pub async fn gather(&self) -> Shard {
        let cores = self.cores.lock().clone();
        let answers = cores.iter().filter_map(|core| {
            let (answer, wait) = oneshot::channel();
            core.try_send(Question::Counts(answer)).ok()?;
            Some(tokio::time::timeout(ANSWER_WITHIN, wait))
        });
        let mut all = Shard::default();
        for answer in futures_util::future::join_all(answers).await {
            if let Ok(Ok(shard)) = answer {
                all.absorb(shard);
            }
        }
        all
    }

    /// The requests of all cores together; nothing if a core does not answer in time.
    pub async fn totals(&self) -> Option<Totals> {
        let cores = self.cores.lock().clone();
        let mut asked = Vec::new();
        for core in cores.iter().filter(|core| !core.is_closed()) {
            let (answer, wait) = oneshot::channel();
            core.try_send(Question::Totals(answer)).ok()?;
            asked.push(tokio::time::timeout(ANSWER_WITHIN, wait));
        }
        let mut all = Totals::default();
        for answer in futures_util::future::join_all(asked).await {
            all.absorb(&answer.ok()?.ok()?);
        }
        Some(all)
    }

    /// Lines of the access log that were given up because its reader was too slow.
    #[must_use]
    pub fn log_lines_dropped(&self) -> u64 {
        self.log.as_ref().map_or(0, AccessLog::dropped)
    }

    /// Writes out what the access log still holds; call it when all cores have ended. Waits a bounded time.
    pub fn finish(&self) {
        if let Some(log) = &self.log {
            log.finish();
        }
    }
}

impl Seat {
    /// Begins the telemetry of this core, inside its runtime.
    #[must_use]
    pub fn take(self, clock: &Clock) -> Rc<CoreTelemetry> {
        let log = self.log.map(access_log::CoreLog::new);
        let telemetry = Rc::new(CoreTelemetry { metrics: CoreMetrics::default(), health: self.health, log });
        tokio::task::spawn_local(serve(Rc::downgrade(&telemetry), self.questions, clock.deadline(HAND_OVER_EVERY)));
        telemetry
    }
}

impl CoreTelemetry {
    /// Counts a request that has ended and writes its line.
    pub fn ended(&self, record: &RequestRecord<'_>) {
        self.metrics.ended(record);
        if let Some(log) = &self.log {
            log.write(record);
        }
    }

    /// Whether somebody will read what is only for the log.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// Hands the log lines of this core to the writer.
    pub fn flush(&self) {
        if let Some(log) = &self.log {
            log.hand_over();
        }
    }
}

impl Drop for CoreTelemetry {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Answers scrapes and hands log lines over, as long as the core's telemetry is in use.
async fn serve(
    telemetry: std::rc::Weak<CoreTelemetry>,
    mut questions: mpsc::Receiver<Question>,
    mut hand_over: Deadline,
) {
    loop {
        let question = tokio::select! {
            question = questions.recv() => match question {
                Some(question) => Some(question),
                None => return,
            },
            () = &mut hand_over => None,
        };
        let Some(telemetry) = telemetry.upgrade() else { return };
        match question {
            // Whoever asked may have given up: then nobody wants the answer.
            Some(Question::Counts(answer)) => drop(answer.send(telemetry.metrics.shard())),
            Some(Question::Totals(answer)) => drop(answer.send(telemetry.metrics.totals())),
            None => {
                hand_over.reset(HAND_OVER_EVERY);
                telemetry.flush();
            }
        }
    }
}
