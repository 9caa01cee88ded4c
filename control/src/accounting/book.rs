//! The accounts themselves. Time is a parameter.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sluice_dataplane::snapshot::{Over, Period, Quota, Snapshot};
use sluice_dataplane::stage::shape::{OctetRow, Spent};

use super::period;

/// Seconds of a sample.
const SAMPLE: u64 = 300;
/// Of a month of 31 days, the samples that the 95th percentile leaves out, and the one that it is.
const KEPT: usize = 31 * 288 * 5 / 100 + 1;
/// Accounts of hosts at most.
const MOST_HOSTS: usize = 1 << 18;

/// Whose account it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Who {
    /// The device by which it leaves.
    pub port: String,
    /// The class, with its parents.
    pub class: String,
    /// A host of the class, or its prefix; none: the whole class.
    pub host: Option<IpAddr>,
}

/// What has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Whose it is.
    #[serde(flatten)]
    pub who: Who,
    /// When its period began, seconds since 1970.
    pub since: u64,
    /// Octets on the wire since.
    pub octets: u64,
    /// When its month began.
    pub month: u64,
    /// Samples of five minutes since, those without any traffic included.
    pub samples: u32,
    /// The sample under way, by its number since 1970, and its octets.
    current: (u64, u64),
    /// The octets of the largest samples, the largest first; none of 0.
    largest: Vec<u64>,
}

impl Account {
    /// The 95th percentile of the month's samples, in bits per second: of N samples the largest N × 5 / 100, rounded down, are
    /// left out, and the largest of the others counts. So of 8,640 it is the 433rd, and of fewer than 20 the largest.
    pub fn p95(&self) -> u64 {
        let left_out = self.samples as usize * 5 / 100;
        self.largest.get(left_out).copied().unwrap_or(0).saturating_mul(8) / SAMPLE
    }

    /// Goes on to the period, month and sample of a time.
    fn go_on(&mut self, at: u64, of: Period) {
        let sample = at / SAMPLE;
        if sample > self.current.0 {
            let octets = std::mem::replace(&mut self.current, (sample, 0)).1;
            self.samples += 1;
            if octets > 0 {
                let place = self.largest.partition_point(|&other| other >= octets);
                self.largest.insert(place, octets);
                self.largest.truncate(KEPT);
            }
        }
        let began = period::began(of, at);
        if began > self.since {
            (self.since, self.octets) = (began, 0);
        }
        let month = period::began(if of == Period::Daily { Period::default() } else { of }, at);
        if month > self.month {
            (self.month, self.samples) = (month, 0);
            self.largest.clear();
        }
    }

    fn add(&mut self, octets: u64) {
        self.octets += octets;
        self.current.1 += octets;
    }
}

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Book {
    accounts: BTreeMap<Who, Account>,
    hosts: usize,
    /// Of a configuration that is on its way.
    pending: Vec<(u32, OctetRow)>,
    /// The sample and the generation for which all accounts were looked at, and whether those who are told know.
    looked: Option<(u64, u32)>,
    all_changed: bool,
    /// Accounts that octets came to since then.
    touched: Vec<Who>,
    /// What the workers have been told, and under which generation.
    told: HashMap<Who, Over>,
    generation: Option<u32>,
}

impl Book {
    pub(super) fn new(accounts: Vec<Account>) -> Self {
        let hosts = accounts.iter().filter(|account| account.who.host.is_some()).count();
        let accounts = accounts.into_iter().map(|account| (account.who.clone(), account)).collect();
        Self { accounts, hosts, ..Self::default() }
    }

    pub(super) fn accounts(&self) -> Vec<&Account> {
        self.accounts.values().collect()
    }

    /// The class of the configuration that an account is of.
    fn class(who: &Who, snapshot: &Snapshot) -> Option<u16> {
        let mut classes = 0..snapshot.classes.len() as u16;
        classes.find(|&class| {
            let name = snapshot.classes.get(usize::from(class)).map(|class| class.name.as_str());
            // By its own name first, as a path takes memory to make.
            name.is_some_and(|name| who.class.ends_with(name))
                && Self::who(class, None, snapshot).class == who.class
                && port(class, snapshot) == who.port
        })
    }

    fn who(class: u16, host: Option<u128>, snapshot: &Snapshot) -> Who {
        let host = host.map(|host| Ipv6Addr::from_bits(host).to_canonical());
        Who { port: port(class, snapshot).to_owned(), class: snapshot.class_path(class), host }
    }

    /// The quota of an account, and what becomes of packets beyond it.
    pub(super) fn quota(&self, who: &Who, snapshot: &Snapshot) -> Option<(u64, Over)> {
        let class = snapshot.classes.get(usize::from(Self::class(who, snapshot)?))?;
        let Quota { octets, each, over, .. } = class.quota;
        let quota = if who.host.is_some() { each } else { octets };
        quota.map(|quota| (quota, over))
    }

    /// Takes in what has left up to `now`.
    pub(super) fn take_in(&mut self, now: u64, rows: &[(u32, OctetRow)], snapshot: &Snapshot) {
        // What is handed out at a full hour left before it.
        let at = now.saturating_sub(1);
        let shaped = |class: u16| {
            let shaper = snapshot.classes.get(usize::from(class)).map(|class| usize::from(class.shaper));
            shaper.and_then(|shaper| snapshot.shapers.get(shaper)).is_some_and(|shaper| shaper.rate.is_some())
        };
        let of: Vec<(Who, Period)> = (0..snapshot.classes.len() as u16)
            .map(|class| {
                (Self::who(class, None, snapshot), snapshot.classes[usize::from(class)].quota.period)
            })
            .collect();
        // Periods begin with samples, so that within one it is for those alone that something comes.
        let looked = Some((at / SAMPLE, snapshot.generation));
        if std::mem::replace(&mut self.looked, looked) != looked {
            for (class, (who, period)) in (0..).zip(&of) {
                if shaped(class) && !self.accounts.contains_key(who) {
                    self.accounts.insert(who.clone(), opened(who.clone(), at, *period));
                }
            }
            self.go_on(at, &of);
        }

        self.pending.extend_from_slice(rows);
        let generation = snapshot.generation;
        let due: Vec<OctetRow> =
            self.pending.iter().filter(|(of, _)| *of == generation).map(|(_, row)| *row).collect();
        // Generations may wrap, so what is not this one's is the next one's.
        self.pending.retain(|(of, _)| *of == generation.wrapping_add(1));
        for OctetRow { class, host, octets } in due {
            let Some((whole, period)) = of.get(usize::from(class)) else { continue };
            let who =
                Who { host: host.map(|host| Ipv6Addr::from_bits(host).to_canonical()), ..whole.clone() };
            if let Some(account) = self.accounts.get_mut(&who) {
                account.add(octets);
            } else if host.is_none() || self.hosts < MOST_HOSTS {
                let samples = self.accounts.get(whole).map_or(0, |class| class.samples);
                let mut account = Account { samples, ..opened(who.clone(), at, *period) };
                account.add(octets);
                self.hosts += usize::from(host.is_some());
                self.accounts.insert(who.clone(), account);
            }
            self.touched.push(who);
        }
    }

    /// Takes all accounts on to the period, month and sample of a time.
    fn go_on(&mut self, at: u64, of: &[(Who, Period)]) {
        self.all_changed = true;
        let periods: HashMap<(&str, &str), Period> =
            of.iter().map(|(who, period)| ((who.port.as_str(), who.class.as_str()), *period)).collect();
        for account in self.accounts.values_mut() {
            let period = periods.get(&(account.who.port.as_str(), account.who.class.as_str()));
            account.go_on(at, period.copied().unwrap_or_default());
        }
        let is_over = |account: &Account| {
            let is_known = periods.contains_key(&(account.who.port.as_str(), account.who.class.as_str()));
            let is_empty = account.octets == 0 && account.current.1 == 0 && account.largest.is_empty();
            is_empty && (account.who.host.is_some() || !is_known)
        };
        self.accounts.retain(|_, account| !is_over(account));
        self.hosts = self.accounts.keys().filter(|who| who.host.is_some()).count();
    }

    /// For whom the workers are to be told something else than they were.
    pub(super) fn changes(&mut self, snapshot: &Snapshot) -> Vec<Spent> {
        let is_new = self.generation.replace(snapshot.generation) != Some(snapshot.generation);
        let class_of: HashMap<Who, u16> = (0..snapshot.classes.len() as u16)
            .map(|class| (Self::who(class, None, snapshot), class))
            .collect();
        let number = |who: &Who| class_of.get(&Who { host: None, ..who.clone() }).copied();
        let spent = |(who, over): (&Who, Over)| {
            let host = who.host.map(|host| match host {
                IpAddr::V4(host) => host.to_ipv6_mapped().to_bits(),
                IpAddr::V6(host) => host.to_bits(),
            });
            Some(Spent { class: number(who)?, host, over })
        };
        let is_over = |account: &Account| {
            let quota = snapshot.classes[usize::from(number(&account.who)?)].quota;
            let octets = if account.who.host.is_some() { quota.each } else { quota.octets };
            let is_over = quota.is_heeded() && octets.is_some_and(|octets| account.octets >= octets);
            is_over.then_some(quota.over)
        };
        let touched = std::mem::take(&mut self.touched);
        if !std::mem::take(&mut self.all_changed) && !is_new {
            let now = touched.into_iter().filter_map(|who| Some((is_over(self.accounts.get(&who)?)?, who)));
            let begun = now.filter(|(over, who)| self.told.insert(who.clone(), *over) != Some(*over));
            return begun.filter_map(|(over, who)| spent((&who, over))).collect();
        }
        let wanted: HashMap<Who, Over> = if snapshot.classes.iter().any(|class| class.quota.is_heeded()) {
            let accounts = self.accounts.values();
            accounts.filter_map(|account| Some((account.who.clone(), is_over(account)?))).collect()
        } else {
            HashMap::new()
        };
        let ended = self.told.keys().filter(|who| !wanted.contains_key(*who)).map(|who| (who, Over::Pass));
        let begun = wanted.iter().filter(|(who, over)| is_new || self.told.get(*who) != Some(*over));
        let changes = ended.chain(begun.map(|(who, &over)| (who, over)));
        let changes = changes.filter_map(spent).collect();
        self.told = wanted;
        changes
    }
}

fn port(class: u16, snapshot: &Snapshot) -> &str {
    let port = snapshot.ports.get(usize::from(snapshot.class_port(class)));
    port.map_or("", |port| port.name.as_str())
}

fn opened(who: Who, at: u64, period: Period) -> Account {
    let month = if period == Period::Daily { Period::default() } else { period };
    Account {
        who,
        since: period::began(period, at),
        octets: 0,
        month: period::began(month, at),
        samples: 0,
        current: (at / SAMPLE, 0),
        largest: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
