//! Any bytes as what a client of the control socket says: answers, or an end, and each answer is one of HTTP's.

#![no_main]

use std::sync::{Arc, LazyLock, mpsc};

use libfuzzer_sys::fuzz_target;
use sluice_control::commit::{self, Desk, Job, Refusal};
use sluice_control::config::{self, Workers};
use sluice_control::link::DataPlane;
use sluice_control::state::{Ends, State};
use sluice_control::watch::Watch;
use sluice_control::{api, capture, plan};
use sluice_dataplane::clock::Clock;
use sluice_dataplane::counters::{self, Counters};

static GATEWAY: LazyLock<(Arc<DataPlane>, Desk)> = LazyLock::new(|| {
    let (config, _) =
        config::load_str("demo.toml", include_str!("../../configs/demo.toml")).expect("it is valid");
    let snapshot = Arc::new(config::compile(&config, &[]));
    let (_, reader) = counters::channel(&Counters::new(&snapshot));
    let cores = [sluice_control::device::machine::Core { id: 0, node: 0, silicon: 0, isolated: false }];
    let plan = plan::plan(&Workers::default(), &[], &cores).expect("one core is enough");
    let ends = Ends { counters: reader, inspector: None };
    let state = State::new(snapshot, [ends], Vec::new(), plan, Watch::new(Clock::Virtual(0), []));
    let gateway = Arc::new(DataPlane::within(Arc::new(state)).expect("there are threads"));
    let (desk, jobs) = mpsc::channel::<Job>();
    std::thread::spawn(move || {
        jobs.iter().for_each(|job| (job.reply)(Err(Refusal::Conflict("not here".into()))));
    });
    (gateway, desk)
});

fuzz_target!(|bytes: &[u8]| {
    let (gateway, desk) = &*GATEWAY;
    let user = u32::from(bytes.first().is_some_and(|byte| byte % 2 == 1));
    let more = commit::api::routes(desk.clone()).merge(capture::api::routes(gateway.clone()));
    let answer = api::answer_to(bytes, gateway.clone(), more, user).expect("there is a socket");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
});
