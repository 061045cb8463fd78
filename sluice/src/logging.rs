//! The process log: to stderr, in sentences or as JSON.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How a long-running command logs.
#[derive(Args)]
pub struct Logging {
    /// Form of the log on stderr; what is logged says SLUICE_LOG
    #[arg(long, env = "SLUICE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Logging {
    /// Starts logging; `default` holds unless SLUICE_LOG says otherwise.
    pub fn start(&self, default: &str) -> anyhow::Result<()> {
        let filter = match std::env::var("SLUICE_LOG") {
            Ok(written) => EnvFilter::try_new(&written)
                .map_err(|error| anyhow::anyhow!("SLUICE_LOG is `{written}`, which is no filter: {error}"))?,
            // What comes to the sockets of the library of DNS and is passed over is not for the log: anybody can send it.
            Err(_) => EnvFilter::new(format!("{default},hickory_net=error,hickory_resolver=error")),
        };
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => builder.with_ansi(may_colour(&std::io::stderr())).init(),
            LogFormat::Json => builder.json().flatten_event(true).init(),
        }
        Ok(())
    }
}

/// Colours are for people: not in pipes, and not for those who set NO_COLOR (no-color.org).
pub fn may_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
