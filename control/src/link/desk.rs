//! The data plane's end of the link: a thread that reads and answers what is short, and some for what may take its time. None
//! of them is a worker's, nor the one that looks after workers and devices.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::{Ask, Greeting, Pulse, VERSION, encode, lock, receive, send};
use crate::config::{self, Config, Diagnostic};
use crate::export::{Batch, Collector};
use crate::reload::{Outcome, Tried};
use crate::state::State;

/// How long control may take for the next piece of an answer.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });
/// Questions that are answered at once, besides the short ones.
const ANSWERERS: usize = 3;
/// Questions that may wait for that.
const QUESTIONS: usize = 64;

/// What only the thread that looks after the workers can do.
#[derive(Debug)]
pub enum Errand {
    /// Adopt a configuration, and say what there is to say, or why not.
    Adopt {
        /// The file's name in messages.
        name: String,
        /// The configuration.
        text: String,
        /// What it means, with the warnings.
        loaded: Box<(Config, Vec<Diagnostic>)>,
        /// Where to say so.
        reply: SyncSender<Result<Vec<String>, String>>,
    },
    /// Have another program take over, and say which version it is, once it is ready, or why not.
    Upgrade {
        /// Its path, if it is not the one that this was started from.
        program: Option<PathBuf>,
        /// Where to say so.
        reply: SyncSender<Result<String, String>>,
    },
    /// Say what the workers would go by with a configuration, or why it would not be adopted.
    TryOut {
        /// The file's name in messages.
        name: String,
        /// The configuration.
        text: String,
        /// Where to say so.
        reply: SyncSender<Result<Tried, String>>,
    },
    /// Come to an end, in order.
    Stop,
}

/// Where questions are answered, whichever control process asks them.
pub struct Desk {
    state: Weak<State>,
    greeting: Mutex<Greeting>,
    records: Option<Mutex<Collector>>,
    errands: Mutex<Sender<Errand>>,
    outcome: Mutex<Option<Outcome>>,
    hang_up: AtomicBool,
    ended: AtomicBool,
    serving: AtomicBool,
    begun: Instant,
    /// When control asked last, in milliseconds since the beginning.
    heard: AtomicU64,
}

impl Desk {
    /// Of a gateway; who holds on to the state holds on to the devices, so this does not.
    pub fn new(
        state: &Arc<State>,
        greeting: Greeting,
        records: Option<Collector>,
        errands: Sender<Errand>,
    ) -> Self {
        Self {
            state: Arc::downgrade(state),
            greeting: Mutex::new(greeting),
            records: records.map(Mutex::new),
            errands: Mutex::new(errands),
            outcome: Mutex::default(),
            hang_up: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    /// Empties the workers' rings of records; to be called every 20 ms.
    pub fn collect(&self) {
        if let Some(records) = &self.records {
            lock(records).collect();
        }
    }

    /// What a control process would be told first.
    pub fn greeting(&self) -> Greeting {
        lock(&self.greeting).clone()
    }

    /// SIGHUP has come.
    pub fn hang_up(&self) {
        self.hang_up.store(true, Relaxed);
    }

    /// The workers have ended.
    pub fn end(&self) {
        self.collect();
        self.ended.store(true, Relaxed);
    }

    /// The workers go by this configuration, or are about to.
    pub fn adopted(&self, text: String) {
        lock(&self.greeting).text = text;
        *lock(&self.outcome) = None;
    }

    /// That is through.
    pub fn settled(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
    }

    /// A new control process is about to come.
    pub fn expect(&self) {
        self.serving.store(false, Relaxed);
        self.heard.store(self.age(), Relaxed);
        if let Some(state) = self.state.upgrade() {
            lock(&self.greeting).sinks = state.nat_log();
        }
    }

    /// Whether control's API answers.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Relaxed)
    }

    /// For how long control has asked nothing.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.age().saturating_sub(self.heard.load(Relaxed)))
    }

    fn age(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers what takes no time; gives back what may.
    fn answer_at_once(&self, ask: Ask) -> Result<Vec<u8>, Ask> {
        self.heard.store(self.age(), Relaxed);
        Ok(match ask {
            Ask::Greet { version: VERSION } => encode(&Ok(lock(&self.greeting).clone())),
            Ask::Greet { version } => encode::<()>(&Err(format!(
                "this data plane speaks version {VERSION} of the link, and control version {version}: they are not of one \
                 `sluice`"
            ))),
            Ask::Serving => {
                self.serving.store(true, Relaxed);
                encode(&Ok(()))
            }
            Ask::Pulse => {
                let hang_up = self.hang_up.swap(false, Relaxed);
                encode(&Ok(Pulse { hang_up, ended: self.ended.load(Relaxed) }))
            }
            Ask::Records { next, sinks } => {
                if let Some(state) = self.state.upgrade() {
                    state.set_nat_log(sinks);
                }
                let batch = self.records.as_ref().map(|records| lock(records).fetch(next));
                encode(&Ok(batch.unwrap_or(Batch { first: next, records: Vec::new() })))
            }
            Ask::Outcome => encode(&Ok(*lock(&self.outcome))),
            Ask::Stop => encode(&lock(&self.errands).send(Errand::Stop).map_err(|_| ENDING.to_owned())),
            Ask::Adopt { .. } | Ask::Live { .. } | Ask::Upgrade { .. } | Ask::State(_) => return Err(ask),
        })
    }

    fn answer(&self, ask: Ask) -> Vec<u8> {
        match ask {
            Ask::State(ask) => match self.state.upgrade() {
                Some(state) => ask.answer(&state),
                None => encode::<()>(&Err(ENDING.into())),
            },
            Ask::Adopt { name, text } => {
                // Here, as it may take its time.
                let loaded = match config::load_str(&name, &text) {
                    Ok(loaded) => Box::new(loaded),
                    Err(report) => {
                        let words = format!("{name}: not adopted, all stays as it was:\n{report}");
                        return encode::<()>(&Err(words));
                    }
                };
                let (reply, replied) = sync_channel(1);
                let sent = lock(&self.errands).send(Errand::Adopt { name, text, loaded, reply });
                let answer = sent.ok().and_then(|()| replied.recv().ok());
                encode(&answer.unwrap_or_else(|| Err(ENDING.into())))
            }
            Ask::Upgrade { program } => {
                let (reply, replied) = sync_channel(1);
                let sent = lock(&self.errands).send(Errand::Upgrade { program, reply });
                let answer = sent.ok().and_then(|()| replied.recv().ok());
                encode(&answer.unwrap_or_else(|| Err(ENDING.into())))
            }
            Ask::Live { name, text } => {
                let (reply, replied) = sync_channel(1);
                let sent = lock(&self.errands).send(Errand::TryOut { name, text, reply });
                let tried = sent.ok().and_then(|()| replied.recv().ok());
                match (tried, self.state.upgrade()) {
                    (Some(Ok(tried)), Some(state)) => encode(&state.live_diff(tried).map(Ok::<_, String>)),
                    (Some(Err(words)), _) => encode(&Ok(Err::<(), _>(words))),
                    _ => encode::<()>(&Err(ENDING.into())),
                }
            }
            other => self.answer_at_once(other).unwrap_or_default(),
        }
    }
}

const ENDING: &str = "the gateway is about to end";
const BUSY: &str = "the data plane is asked too much at once; try again soon";

/// Answers what comes over a link, on threads of its own, until the link ends.
///
/// # Errors
/// There are no threads to be had.
pub fn serve(stream: UnixStream, desk: Arc<Desk>) -> io::Result<()> {
    // A message that is cut off ends the link, and with it the control process that takes nothing.
    stream.set_write_timeout(Some(PATIENCE))?;
    let link = Arc::new(Link { stream, writing: Mutex::default() });
    let (long, questions) = sync_channel(QUESTIONS);
    let questions = Arc::new(Mutex::new(questions));
    let named = |name: &str| thread::Builder::new().name(name.into());
    for _ in 0..ANSWERERS {
        let (link, desk, questions) = (link.clone(), desk.clone(), questions.clone());
        named("sluice-answer").spawn(move || answer(&link, &desk, &questions))?;
    }
    named("sluice-link").spawn(move || listen(&link, &desk, &long))?;
    Ok(())
}

struct Link {
    stream: UnixStream,
    writing: Mutex<()>,
}

impl Link {
    fn reply(&self, number: u64, body: &[u8]) {
        let _turn = lock(&self.writing);
        if send(&self.stream, number, body).is_err() {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn listen(link: &Link, desk: &Desk, long: &SyncSender<(u64, Ask)>) {
    while let Ok((number, body)) = receive(&link.stream) {
        let ask = match serde_json::from_slice(&body) {
            Ok(ask) => ask,
            Err(error) => {
                link.reply(number, &encode::<()>(&Err(format!("this is no question: {error}"))));
                continue;
            }
        };
        match desk.answer_at_once(ask) {
            Ok(answer) => link.reply(number, &answer),
            Err(ask) => match long.try_send((number, ask)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => link.reply(number, &encode::<()>(&Err(BUSY.into()))),
                Err(TrySendError::Disconnected(_)) => return,
            },
        }
    }
}

fn answer(link: &Link, desk: &Desk, questions: &Mutex<Receiver<(u64, Ask)>>) {
    loop {
        let next = lock(questions).recv();
        let Ok((number, ask)) = next else { return };
        link.reply(number, &desk.answer(ask));
    }
}
