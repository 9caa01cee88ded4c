//! The thread that asks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::{self, ApiError, Request, TopBy};
use crate::state::Topic;

/// Rows of a list of the largest.
const ROWS: u32 = 100;

/// What a gateway has said, all at about one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// Seconds on a clock of any beginning.
    pub(super) at: f64,
    pub(super) counters: Value,
    pub(super) interfaces: Value,
    pub(super) workers: Value,
    pub(super) classes: Value,
    pub(super) flows: Value,
    pub(super) hosts: Value,
}

/// What there is to know: answers, or in words why there are none.
pub(super) type News = Result<Answers, String>;

pub(super) struct Asker {
    news: Receiver<News>,
    by_packets: Arc<AtomicBool>,
}

impl Asker {
    /// Asks at once, and then once an interval; the thread ends with the process, or once nobody takes its news.
    pub(super) fn start(socket: PathBuf, interval: Duration) -> io::Result<Self> {
        let (tell, news) = channel();
        let by_packets = Arc::new(AtomicBool::new(false));
        let by = by_packets.clone();
        let body = move || {
            let begun = Instant::now();
            loop {
                let by = if by.load(Relaxed) { TopBy::Pps } else { TopBy::Bps };
                let answers = ask(&socket, by).map_err(|error| error.to_string());
                let answers = answers.map(|said| Answers { at: begun.elapsed().as_secs_f64(), ..said });
                if tell.send(answers).is_err() {
                    return;
                }
                thread::sleep(interval);
            }
        };
        thread::Builder::new().name("sluice-asker".into()).spawn(body)?;
        Ok(Self { news, by_packets })
    }

    /// What the largest flows and hosts are to be the largest by.
    pub(super) fn by_packets(&self, wanted: bool) {
        self.by_packets.store(wanted, Relaxed);
    }

    /// What has come, if anything has.
    pub(super) fn news(&self) -> Option<News> {
        self.news.try_recv().ok()
    }
}

fn ask(socket: &Path, by: TopBy) -> Result<Answers, ApiError> {
    let show = |topic| api::ask(socket, Request::Show(topic));
    Ok(Answers {
        at: 0.0,
        counters: show(Topic::Counters)?,
        interfaces: show(Topic::Interfaces)?,
        workers: show(Topic::Workers)?,
        classes: show(Topic::Qos)?,
        flows: api::ask(socket, Request::TopFlows(by, ROWS))?,
        hosts: api::ask(socket, Request::TopHosts(by, ROWS))?,
    })
}
