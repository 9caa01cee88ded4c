use super::*;

const FILE: &str =
    "[interfaces.lan]\ndevice = \"eth1\"\naddress = \"192.168.1.1/24\"\n[timeouts]\nudp = \"300s\"\n";

fn text(udp: u32) -> String {
    FILE.replace("300s", &format!("{udp}s"))
}

/// Adopts what it is given, but for one word, and has it settled at once.
#[derive(Default)]
struct Plane {
    adopted: Vec<String>,
    busy: bool,
    settled: Option<Outcome>,
}

impl Adopts for Plane {
    fn adopt(&mut self, _: &str, text: &str) -> Result<Vec<String>, String> {
        if self.busy {
            return Err("busy".into());
        }
        self.adopted.push(text.to_owned());
        let generation = u32::try_from(self.adopted.len()).unwrap();
        self.settled = Some(Outcome { generation, kept: 7, ended: 1, milliseconds: 3, adopt_nanoseconds: 9 });
        Ok(Vec::new())
    }

    fn settled(&mut self) -> Option<Outcome> {
        self.settled.take()
    }
}

struct Lab {
    folder: tempfile::TempDir,
    keeper: Keeper,
    desk: Desk,
    plane: Plane,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.toml"), FILE).unwrap();
        let now = Instant::now();
        let (keeper, desk) = Self::start(folder.path(), FILE, now);
        Self { folder, keeper, desk, plane: Plane::default(), now }
    }

    fn start(folder: &Path, text: &str, now: Instant) -> (Keeper, Desk) {
        let store = Store::open(&folder.join("state"));
        Keeper::new(folder.join("c.toml"), Loaded::new("c.toml", text).unwrap().0, true, store, now)
    }

    fn ask(&mut self, ask: Ask) -> Answer {
        let (tell, told) = channel();
        let reply = Box::new(move |answer| tell.send(answer).unwrap());
        self.desk.send(Job { uid: 1000, ask, reply }).unwrap();
        self.go_on();
        self.go_on();
        told.try_recv().unwrap()
    }

    fn go_on(&mut self) -> Vec<String> {
        self.keeper.go_on(&mut self.plane, self.now)
    }

    fn commit(&mut self, text: &str, confirm: Option<u64>) -> Answer {
        self.ask(Ask::Commit {
            file: "new.toml".into(),
            text: text.into(),
            comment: Some("why".into()),
            confirm,
        })
    }

    fn running(&self) -> &str {
        self.plane.adopted.last().map_or(FILE, String::as_str)
    }

    fn store(&self) -> &Store {
        &self.keeper.store
    }
}

#[test]
fn commits_and_rollbacks_are_on_record() {
    let mut lab = Lab::new();
    let done = lab.commit(&text(200), None).unwrap();
    assert_eq!(
        (&done["id"], &done["uid"], &done["standing"]),
        (&json!(2), &json!(1000), &json!("confirmed"))
    );
    assert_eq!(done["changes"], json!(["~ timeouts.udp: \"300s\" -> \"200s\""]));
    assert_eq!((&done["outcome"]["kept"], &done["outcome"]["ended"]), (&json!(7), &json!(1)));
    assert!(done["said"][0].as_str().unwrap().contains("the next start"), "{done}");
    let done = lab.ask(Ask::Rollback(None)).unwrap();
    assert_eq!((&done["id"], &done["how"]), (&json!(3), &json!("rollback to 1")));
    assert_eq!(lab.running(), FILE);
    assert_eq!(done["said"], json!([]), "what runs is what is in the file");
    lab.ask(Ask::Rollback(Some(2))).unwrap();
    assert_eq!(lab.running(), text(200));
    assert!(matches!(lab.ask(Ask::Rollback(Some(77))), Err(Refusal::Wrong(_))));
    let history = lab.ask(Ask::History).unwrap();
    assert_eq!(history["entries"].as_array().unwrap().len(), 4);
    // Another control reads the same.
    let entries: Vec<Entry> = lab.store().entries().into_iter().cloned().collect();
    let path = lab.folder.path().join("state");
    drop(lab.keeper);
    assert_eq!(Store::open(&path).entries().into_iter().cloned().collect::<Vec<_>>(), entries);
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut lab = Lab::new();
    for (text, words) in [
        ("interfaces = 3".to_owned(), "named tables"),
        (FILE.replace("eth1", "eth2"), "interfaces.lan.device changed; restart to change that"),
    ] {
        let Err(Refusal::Wrong(said)) = lab.commit(&text, Some(60)) else { panic!("{text}") };
        assert!(said.contains("not adopted, all stays as it was") && said.contains(words), "{said}");
    }
    lab.plane.busy = true;
    assert_eq!(lab.commit(&text(200), Some(60)), Err(Refusal::Wrong("busy".into())));
    assert!(lab.plane.adopted.is_empty() && lab.store().pending().is_none());
    assert_eq!(lab.store().entries().len(), 1);
    assert_eq!(lab.ask(Ask::Confirm), Err(Refusal::Conflict("no commit waits to be confirmed".into())));
    assert!(matches!(lab.ask(Ask::Rollback(None)), Err(Refusal::Conflict(_))));
}

#[test]
fn a_commit_that_is_not_confirmed_is_undone_in_time() {
    let mut lab = Lab::new();
    lab.commit(&text(200), Some(60)).unwrap();
    lab.now += Duration::from_secs(59);
    assert!(lab.go_on().is_empty());
    let Err(Refusal::Conflict(words)) = lab.commit(&text(100), None) else { panic!() };
    assert!(words.contains("commit 2 waits to be confirmed for 1 s more"), "{words}");
    lab.keeper.hang_up();
    assert!(lab.go_on()[0].contains("waits to be confirmed"));
    lab.now += Duration::from_secs(1);
    lab.plane.busy = true;
    assert!(lab.go_on()[0].contains("cannot be undone yet"));
    lab.plane.busy = false;
    lab.now += Duration::from_secs(1);
    assert_eq!(lab.go_on()[0], "commit 2 was not confirmed in time: back to commit 1");
    assert_eq!(lab.running(), FILE);
    assert_eq!(lab.store().entry(2).unwrap().standing, Standing::Undone);
    assert!(lab.store().pending().is_none());
}

#[test]
fn a_commit_that_is_confirmed_stays() {
    let mut lab = Lab::new();
    lab.commit(&text(200), Some(60)).unwrap();
    lab.ask(Ask::Confirm).unwrap();
    lab.now += Duration::from_secs(3600);
    lab.go_on();
    assert_eq!(lab.running(), text(200));
    assert_eq!(lab.store().entry(2).unwrap().standing, Standing::Confirmed);
    // One that waits can be taken back before its time.
    lab.commit(&text(100), Some(60)).unwrap();
    lab.ask(Ask::Rollback(None)).unwrap();
    assert_eq!(
        (lab.running(), lab.store().entry(3).unwrap().standing),
        (text(200).as_str(), Standing::Undone)
    );
    assert!(lab.store().pending().is_none());
}

#[test]
fn a_control_that_comes_back_undoes_what_was_not_confirmed() {
    let mut lab = Lab::new();
    lab.commit(&text(200), Some(60)).unwrap();
    let Lab { folder, keeper, mut plane, now, .. } = lab;
    drop(keeper);
    // The data plane went on with what it had.
    let (mut keeper, _desk) = Lab::start(folder.path(), &text(200), now);
    assert!(keeper.go_on(&mut plane, now + Duration::from_secs(50)).is_empty());
    let lines = keeper.go_on(&mut plane, now + Duration::from_secs(61));
    assert_eq!(lines[0], "commit 2 was not confirmed in time: back to commit 1");
    assert_eq!(plane.adopted.last().unwrap(), FILE);
}

#[test]
fn a_start_says_what_it_does() {
    let mut lab = Lab::new();
    lab.commit(&text(200), Some(60)).unwrap();
    let path = lab.folder.path().join("state");
    let file = lab.folder.path().join("c.toml");
    let deadline = lab.store().pending().unwrap().deadline;
    drop(lab.keeper);
    let start = |text: &str, now: u64| at_start(&mut Store::open(&path), &file, text, now);
    // Still time: it starts, and waits on.
    let early = start(&text(200), deadline - 10);
    assert!(early.instead.is_none() && early.lines[0].contains("undone in 10 s unless"), "{early:?}");
    // Too late: what was good runs.
    let late = start(&text(200), deadline);
    assert_eq!(late.instead, Some(("commit 1".into(), FILE.into())));
    assert!(late.lines[0].contains("was not confirmed in time; commit 1 (c.toml) runs instead"), "{late:?}");
    assert!(Store::open(&path).pending().is_none());
    // Another file than what ran: it counts, and that is said.
    let other = start(&text(100), deadline);
    assert!(other.instead.is_none() && other.lines[0].contains("`sluice rollback 2`"), "{other:?}");
}

#[test]
fn a_store_that_cannot_be_written_is_said_and_refuses_what_it_could_not_undo() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state"), "in the way").unwrap();
    let now = Instant::now();
    let (keeper, desk) = Lab::start(folder.path(), FILE, now);
    let mut lab = Lab { folder, keeper, desk, plane: Plane::default(), now };
    let Err(Refusal::Conflict(words)) = lab.commit(&text(200), Some(60)) else { panic!() };
    assert!(words.contains("could not be undone if control died") && words.contains("`state` of [control]"));
    let done = lab.commit(&text(200), None).unwrap();
    assert!(done["said"].to_string().contains("commits are not kept"), "{done}");
    lab.ask(Ask::Rollback(None)).unwrap();
    assert_eq!(lab.running(), FILE);
}

#[test]
fn two_gateways_do_not_share_a_store_and_old_commits_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path());
    assert!(store.complaints().is_empty());
    assert!(Store::open(folder.path()).complaints()[0].contains("another gateway uses it"));
    for _ in 0..60 {
        store.add(store.next(), FILE);
    }
    assert_eq!((store.entries().len(), store.entries()[0].id), (50, 11));
    assert!(!folder.path().join("10.toml").exists() && folder.path().join("60.toml").exists());
}
