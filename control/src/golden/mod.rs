//! Golden cases: a folder with a configuration, captures of what each port receives, and what must come of it.
//!
//! A case has `config.toml`; for each port that receives something `PORT.in.pcap`, made from `packets.txt`; for each
//! that sends something `PORT.expected.pcap`; `counters.json`, what the replay prints, without the reasons that dropped
//! nothing; and perhaps `arguments.txt`, further arguments of the replay. See pcap-tests/README.md.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_dataplane::port::pcap::PcapError;

mod build;
mod compare;
mod layers;
pub mod packets;
mod text;

pub use text::TextError;

/// What a case hands to the replay.
#[derive(Clone, Debug)]
pub struct Case {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// The configuration.
    pub config: PathBuf,
    /// What ports receive: name and capture.
    pub inputs: Vec<(String, PathBuf)>,
    /// Further arguments of `sluice replay`, such as `--strict-l2`.
    pub arguments: Vec<String>,
}

/// Replays a case, writes `PORT.pcap` for each port into the folder named second, and returns the counters.
pub type Replay<'a> = dyn Fn(&Case, &Path) -> Result<Value, Box<dyn Error>> + 'a;

/// Why a case could not be run, whatever it would have shown.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A file of the case could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A `packets.txt` is wrong.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: TextError,
    },
    /// A capture is wrong.
    #[error(transparent)]
    Pcap(#[from] PcapError),
    /// The expected counters are no JSON.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: serde_json::Error,
    },
    /// There is no case of that name.
    #[error("there is no case {name} in {}", root.display())]
    NoSuchCase {
        /// The name.
        name: String,
        /// Where it should be.
        root: PathBuf,
    },
    /// The replay failed.
    #[error("case {case}: the replay failed: {reason}")]
    Replay {
        /// The case's name.
        case: String,
        /// What the replay said.
        reason: String,
    },
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> GoldenError {
    move |source| GoldenError::File { path: path.to_owned(), source }
}

impl Case {
    /// The case in `dir`, as its files are.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(dir: &Path) -> Result<Self, GoldenError> {
        let path = dir.join("arguments.txt");
        let arguments = match fs::read_to_string(&path) {
            Ok(text) => text.split_whitespace().map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(file_error(&path)(error)),
        };
        Ok(Self {
            arguments,
            name: dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned(),
            dir: dir.to_owned(),
            config: dir.join("config.toml"),
            inputs: captures(dir, ".in.pcap")?.into_iter().collect(),
        })
    }

    fn replay(&self, out: &Path, replay: &Replay<'_>) -> Result<Value, GoldenError> {
        let failed = |reason: Box<dyn Error>| GoldenError::Replay {
            case: self.name.clone(),
            reason: reason.to_string(),
        };
        replay(self, out).map_err(failed)
    }
}

/// All cases below `root`, by name: its folders that have a `config.toml`.
///
/// # Errors
/// A folder cannot be read.
pub fn cases(root: &Path) -> Result<Vec<Case>, GoldenError> {
    let mut dirs: Vec<PathBuf> =
        files(root)?.into_iter().filter(|path| path.join("config.toml").is_file()).collect();
    dirs.sort();
    dirs.iter().map(|dir| Case::open(dir)).collect()
}

/// Runs all cases below `root`, with `scratch`, an empty folder, for what they send. Returns how many there are, and what
/// is to be said of those that fail.
///
/// # Errors
/// The cases cannot be listed.
pub fn run_all(
    root: &Path,
    scratch: &Path,
    replay: &Replay<'_>,
) -> Result<(usize, Vec<String>), GoldenError> {
    let cases = cases(root)?;
    let mut failures = Vec::new();
    for case in &cases {
        match scratch_for(case, scratch).and_then(|out| run_case(&case.dir, &out, replay)) {
            Ok(differences) if differences.is_empty() => {}
            Ok(differences) => {
                failures.push(format!(
                    "case {}:\n  {}",
                    case.name,
                    differences.join("\n").replace('\n', "\n  ")
                ));
            }
            Err(error) => failures.push(format!("case {}:\n  {error}", case.name)),
        }
    }
    Ok((cases.len(), failures))
}

/// Regenerates the case `name` below `root`, or all of them, with `scratch`, an empty folder, for what they send.
///
/// # Errors
/// As of [`regenerate`], or there is no such case.
pub fn regenerate_named(
    root: &Path,
    name: &str,
    scratch: &Path,
    replay: &Replay<'_>,
) -> Result<(), GoldenError> {
    let mut cases = cases(root)?;
    cases.retain(|case| name == "all" || case.name == name);
    if cases.is_empty() {
        return Err(GoldenError::NoSuchCase { name: name.to_owned(), root: root.to_owned() });
    }
    cases.iter().try_for_each(|case| regenerate(&case.dir, &scratch_for(case, scratch)?, replay))
}

fn scratch_for(case: &Case, scratch: &Path) -> Result<PathBuf, GoldenError> {
    let out = scratch.join(&case.name);
    fs::create_dir_all(&out).map_err(file_error(&out))?;
    Ok(out)
}

/// Runs the case in `dir`, with `out`, an empty folder, for what it sends. Returns the differences in words: none if
/// all is as expected.
///
/// # Errors
/// A file of the case is missing or wrong, or the replay failed.
pub fn run_case(dir: &Path, out: &Path, replay: &Replay<'_>) -> Result<Vec<String>, GoldenError> {
    let case = Case::open(dir)?;
    let mut differences = stale_inputs(&case)?;
    let got = case.replay(out, replay)?;

    let expected = captures(dir, ".expected.pcap")?;
    let sent = captures(out, ".pcap")?;
    let ports: std::collections::BTreeSet<&String> = expected.keys().chain(sent.keys()).collect();
    for port in ports {
        let packets = |path: Option<&PathBuf>| path.map_or(Ok(Vec::new()), |path| read_packets(path));
        differences.extend(compare::captures(port, &packets(expected.get(port))?, &packets(sent.get(port))?));
    }

    let path = dir.join("counters.json");
    let counters = fs::read(&path).map_err(file_error(&path))?;
    let counters = serde_json::from_slice(&counters).map_err(|source| GoldenError::Json { path, source })?;
    differences.extend(compare::counters(&without_zeros(counters), &without_zeros(got)));
    Ok(differences)
}

/// Makes the inputs of the case in `dir` from its `packets.txt`, replays it with `out`, an empty folder, for what it
/// sends, and takes what comes of it as what is expected from now on.
///
/// # Errors
/// A file of the case is missing or wrong, or the replay failed; then the expectations stay as they were.
pub fn regenerate(dir: &Path, out: &Path, replay: &Replay<'_>) -> Result<(), GoldenError> {
    if let Some(inputs) = inputs(dir)? {
        for path in captures(dir, ".in.pcap")?.values() {
            fs::remove_file(path).map_err(file_error(path))?;
        }
        for (port, capture) in inputs {
            let path = dir.join(format!("{port}.in.pcap"));
            fs::write(&path, capture).map_err(file_error(&path))?;
        }
    }
    let case = Case::open(dir)?;
    let counters = case.replay(out, replay)?;
    for path in captures(dir, ".expected.pcap")?.values() {
        fs::remove_file(path).map_err(file_error(path))?;
    }
    for (port, path) in captures(out, ".pcap")? {
        if !read_packets(&path)?.is_empty() {
            fs::copy(&path, dir.join(format!("{port}.expected.pcap"))).map_err(file_error(&path))?;
        }
    }
    let path = dir.join("counters.json");
    fs::write(&path, format!("{:#}\n", without_zeros(counters))).map_err(file_error(&path))
}

/// Counters without the reasons for which nothing was dropped, so that a new reason is no news in every case.
fn without_zeros(mut counters: Value) -> Value {
    if let Some(drops) = counters.get_mut("drops").and_then(Value::as_object_mut) {
        drops.retain(|_, count| *count != 0);
    }
    counters
}

/// The captures that `packets.txt` makes, by port; `None` if the case has none.
fn inputs(dir: &Path) -> Result<Option<BTreeMap<String, Vec<u8>>>, GoldenError> {
    let path = dir.join("packets.txt");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(file_error(&path))?;
    let ports = packets::parse(&text).map_err(|source| GoldenError::Text { path, source })?;
    let captures = ports.into_iter().map(|(port, arrivals)| Ok((port, packets::capture(&arrivals)?)));
    Ok(Some(captures.collect::<Result<_, PcapError>>()?))
}

/// Inputs that are not what `packets.txt` says.
fn stale_inputs(case: &Case) -> Result<Vec<String>, GoldenError> {
    let Some(made) = inputs(&case.dir)? else { return Ok(Vec::new()) };
    let stale = |port: &String| format!("{port}.in.pcap is not what packets.txt says; regenerate the case");
    let mut found = Vec::new();
    for (port, path) in &case.inputs {
        let bytes = fs::read(path).map_err(file_error(path))?;
        if made.get(port) != Some(&bytes) {
            found.push(stale(port));
        }
    }
    found.extend(made.keys().filter(|port| case.inputs.iter().all(|(name, _)| name != *port)).map(stale));
    Ok(found)
}

fn read_packets(path: &Path) -> Result<Vec<compare::Packet>, GoldenError> {
    let file = fs::File::open(path).map_err(file_error(path))?;
    Ok(compare::packets(&path.display().to_string(), BufReader::new(file))?)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, GoldenError> {
    let entries = fs::read_dir(dir).map_err(file_error(dir))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(file_error(dir))).collect()
}

/// The files of a folder whose name is a port's and this ending, by port.
fn captures(dir: &Path, ending: &str) -> Result<BTreeMap<String, PathBuf>, GoldenError> {
    let mut found = BTreeMap::new();
    for path in files(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(port) = name.strip_suffix(ending) {
            found.insert(port.to_owned(), path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
