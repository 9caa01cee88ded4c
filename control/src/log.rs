//! The log: what `sluice run` and `sluice control` have to say of themselves, by `tracing`. Lines in plain words on standard
//! error; as JSON there, if the configuration wants it; or to the journal with their levels and fields, where standard error is
//! the journal's. Nothing on the packet path says anything.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Log, LogFormat, LogLevel};
use crate::export::wall;

mod limit;

use limit::Limits;

/// Events of this program's own code; libraries have nothing to say to its operators.
const OURS: &str = "sluice";

/// What holds for both processes' logs, from the configuration that runs.
static SETTINGS: RwLock<Log> = RwLock::new(Log { format: LogFormat::Text, level: LogLevel::Info });
static STARTED: OnceLock<()> = OnceLock::new();

/// Begins the log of this process, which is called `process` in it. Further calls change nothing.
pub fn start(process: &'static str) {
    STARTED.get_or_init(|| {
        let journal = is_journal().then(tracing_journald::layer).and_then(Result::ok);
        let journal = journal.map(|layer| {
            layer.with_syslog_identifier("sluice".into()).with_field_prefix(Some("SLUICE".into()))
        });
        let lines = Lines { process, journal, limits: Mutex::default(), begun: Instant::now() };
        // Only a test has set another one before.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines));
    });
}

/// From now on the log is as this configuration has it.
pub fn set(settings: Log) {
    *SETTINGS.write().unwrap_or_else(PoisonError::into_inner) = settings;
}

/// Says why the process ends, if there is a log.
pub fn has_started() -> bool {
    STARTED.get().is_some()
}

/// Whether standard error is a stream of the journal's (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(metadata) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}

struct Lines {
    process: &'static str,
    journal: Option<tracing_journald::Layer>,
    limits: Mutex<Limits>,
    begun: Instant,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let Log { format, level } = *SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
        if *metadata.level() > Level::from(level) || !metadata.target().starts_with(OURS) {
            return;
        }
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left_out) = limits.admit(metadata.callsite(), self.begun.elapsed()) else { return };
        drop(limits);
        if let (Some(journal), LogFormat::Text) = (&self.journal, format) {
            journal.on_event(event, context);
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let line = match format {
            LogFormat::Text => said.text(left_out),
            LogFormat::Json => said.json(self.process, *metadata.level(), left_out),
        };
        // At once and whole, as two processes write to one place. A log that is gone (a closed pipe) is no reason to stop
        // forwarding.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Value>,
}

impl Said {
    /// In words alone: these say what is in the fields.
    fn text(self, left_out: u64) -> String {
        match left_out {
            0 => format!("{}\n", self.message),
            _ => format!("{} ({left_out} more of this kind were left out)\n", self.message),
        }
    }

    fn json(self, process: &str, level: Level, left_out: u64) -> String {
        let mut object = Map::new();
        object.insert("time".into(), wall::show(wall::now()).into());
        object.insert("level".into(), level.as_str().to_ascii_lowercase().into());
        object.insert("process".into(), process.into());
        object.insert("message".into(), self.message.into());
        object.extend(self.fields);
        if left_out > 0 {
            object.insert("left_out".into(), left_out.into());
        }
        format!("{}\n", Value::Object(object))
    }

    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.fields.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        let mut fields = Map::new();
        fields.insert("device".into(), "eth0".into());
        Said { message: "wan: the device \"eth0\" is gone".into(), fields }
    }

    #[test]
    fn a_line_is_words_or_an_object() {
        assert_eq!(said().text(0), "wan: the device \"eth0\" is gone\n");
        assert_eq!(said().text(3), "wan: the device \"eth0\" is gone (3 more of this kind were left out)\n");
        let line = said().json("data plane", Level::WARN, 3);
        let object: Value = serde_json::from_str(&line).unwrap();
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
        assert!(wall::parse(object["time"].as_str().unwrap()).is_some());
        let rest = ["level", "process", "message", "device", "left_out"].map(|key| object[key].clone());
        let words: Value = "wan: the device \"eth0\" is gone".into();
        assert_eq!(rest, ["warn".into(), "data plane".into(), words, "eth0".into(), 3.into()]);
    }
}
