//! Shapers and classes, as the data plane has them: parents ahead of their children, defaults made where none is named.

use sluice_dataplane::snapshot::{self, ClassMatch, ClassRate, Codel, HostKey, Over, Period, Snapshot};
use sluice_dataplane::table::meter::Rate;

use super::{expand, index, nanos};
use crate::config::model::{Class, Config, Link, Match, OverQuota, PerEnd, PerHost, Quota, Shaper};

pub(super) fn compile(config: &Config, snapshot: &mut Snapshot) {
    // The first rule of each ACL; behind its rules comes its default.
    let firsts: Vec<usize> = (config.acls.iter())
        .scan(0, |next, acl| Some(std::mem::replace(next, *next + acl.rules.len() + 1)))
        .collect();
    for (place, shaper) in config.shapers.iter().enumerate() {
        let number = index(snapshot.shapers.len());
        let port = snapshot.interfaces.get(shaper.interface).map_or(snapshot::NONE16, |link| link.port);
        let numbers = vec![None; shaper.classes.len()];
        let mut tree = Tree { shaper, number, firsts: &firsts, snapshot, order: Vec::new(), numbers };
        let default = tree.default_of(None);
        let default = tree.scope(None, None, default);
        tree.send_over();
        tree.name_in_limits(config);
        let order = std::mem::take(&mut tree.order);
        let numbers = std::mem::take(&mut tree.numbers);
        if let Some((line, classes)) = config.places.shapers.get(place) {
            snapshot.places.classes.resize(snapshot.classes.len(), *line);
            for (number, &line) in numbers.into_iter().zip(classes) {
                let number = number.map_or(usize::MAX, usize::from);
                snapshot.places.classes.get_mut(number).into_iter().for_each(|place| *place = line);
            }
        }
        snapshot.shapers.push(snapshot::Shaper {
            port,
            rate: shaper.rate.map(rate),
            overhead: snapshot::Overhead {
                bytes: shaper.overhead.bytes,
                least: shaper.overhead.least,
                atm: shaper.overhead.atm,
            },
            frames: shaper.frames,
            order,
            default,
        });
    }
}

fn rate(bits_per_second: u64) -> Rate {
    Rate { bits_per_second }
}

/// The classes of one shaper on their way into the snapshot.
struct Tree<'a> {
    shaper: &'a Shaper,
    number: u16,
    firsts: &'a [usize],
    snapshot: &'a mut Snapshot,
    order: Vec<(u16, u16)>,
    /// Of each class in the configuration, its index in the snapshot.
    numbers: Vec<Option<u16>>,
}

impl Tree<'_> {
    fn children(&self, parent: Option<usize>) -> Vec<usize> {
        let classes = self.shaper.classes.iter().enumerate();
        classes.filter(|(_, class)| class.parent == parent).map(|(index, _)| index).collect()
    }

    fn is_group(&self, class: usize) -> bool {
        self.shaper.classes.iter().any(|other| other.parent == Some(class))
    }

    /// The class that is named the default for what is in `scope`: within it, or within classes of it that are for all.
    fn default_of(&self, scope: Option<usize>) -> Option<usize> {
        self.children(scope).into_iter().find_map(|child| {
            let class = &self.shaper.classes[child];
            let is_group = self.is_group(child);
            if class.default && !is_group {
                return Some(child);
            }
            (is_group && class.matches.is_any()).then(|| self.default_of(Some(child))).flatten()
        })
    }

    /// Adds what a class, or the device itself, holds. Returns the class for what no other is for.
    fn scope(&mut self, class: Option<usize>, parent: Option<u16>, default: Option<usize>) -> u16 {
        let found = self.add(class, parent, default);
        found.unwrap_or_else(|| {
            let taken = |name: &str| {
                let mut others = self.snapshot.classes.iter();
                others.any(|c| c.shaper == self.number && c.parent == parent && c.name == name)
            };
            let name = if taken("default") { "other" } else { "default" };
            self.push(snapshot::Class {
                name: name.to_owned(),
                shaper: self.number,
                parent,
                matches: ClassMatch::default(),
                mark: class.and_then(|class| self.mark(class)),
                priority: Class::LAST_PRIORITY,
                rate: ClassRate::default(),
                per: None,
                accounts: None,
                hosts: 0,
                codel: Codel::default(),
                quota: snapshot::Quota::default(),
            })
        })
    }

    /// Adds the classes within one. Returns the index that `default` got.
    fn add(&mut self, within: Option<usize>, parent: Option<u16>, default: Option<usize>) -> Option<u16> {
        let mut found = None;
        for child in self.children(within) {
            let new = self.push(self.compile(child, parent));
            self.numbers[child] = Some(new);
            let class = &self.shaper.classes[child];
            if !self.is_group(child) {
                if !class.matches.is_any() {
                    self.order.push((new, new));
                }
                if default == Some(child) {
                    found = Some(new);
                }
            } else if class.matches.is_any() {
                found = self.add(Some(child), Some(new), default).or(found);
            } else {
                let inner = self.default_of(Some(child));
                let rest = self.scope(Some(child), Some(new), inner);
                self.order.push((new, rest));
            }
        }
        found
    }

    /// Says where packets beyond a quota go, now that all classes have their index.
    fn send_over(&mut self) {
        for (class, number) in self.shaper.classes.iter().zip(&self.numbers) {
            let over = match class.quota.over {
                OverQuota::Pass => Over::Pass,
                OverQuota::Drop => Over::Drop,
                OverQuota::Class(other) => self.numbers[other].map_or(Over::Pass, Over::Class),
            };
            if let Some(class) = number.and_then(|number| self.snapshot.classes.get_mut(usize::from(number)))
            {
                class.quota.over = over;
            }
        }
    }

    /// Tells limits that are for some classes of this shaper which those are: what a class holds is its, too.
    fn name_in_limits(&mut self, config: &Config) {
        let first = self.snapshot.classes.iter().position(|class| class.shaper == self.number).unwrap_or(0);
        let all = first as u16..index(self.snapshot.classes.len());
        for (limit, place) in config.limits.iter().zip(0..) {
            let device = match config.interfaces[limit.interface].link {
                Link::Device(_) => limit.interface,
                Link::Vlan { parent, .. } => parent,
            };
            if limit.classes.is_empty() || device != self.shaper.interface {
                continue;
            }
            let named: Vec<u16> = limit.classes.iter().filter_map(|&class| self.numbers[class]).collect();
            let parent = |&class: &u16| self.snapshot.classes[usize::from(class)].parent;
            let is_of = |&class: &u16| std::iter::successors(Some(class), parent).any(|c| named.contains(&c));
            let classes = all.clone().filter(is_of).collect();
            self.snapshot.limits[place].classes = classes;
        }
    }

    fn push(&mut self, class: snapshot::Class) -> u16 {
        self.snapshot.classes.push(class);
        index(self.snapshot.classes.len() - 1)
    }

    /// A class's mark, or that of the nearest around it.
    fn mark(&self, class: usize) -> Option<u8> {
        let classes = &self.shaper.classes;
        std::iter::successors(Some(class), |&class| classes[class].parent)
            .find_map(|class| classes[class].mark)
    }

    fn compile(&self, number: usize, parent: Option<u16>) -> snapshot::Class {
        let class = &self.shaper.classes[number];
        let burst = class.burst.map_or(0, |bytes| bytes.min(u32::MAX.into()) as u32);
        snapshot::Class {
            name: class.name.clone(),
            shaper: self.number,
            parent,
            matches: self.matches(class),
            mark: self.mark(number),
            priority: class.priority,
            rate: ClassRate {
                guaranteed: class.promised().map(rate),
                max: class.max.map(rate),
                burst,
                weight: class.weight,
            },
            per: class.per.map(per),
            accounts: class.accounts.map(|accounts| key(accounts.end, accounts.bits)),
            hosts: class.per.map(|per| per.most).or(class.accounts.map(|of| of.most)).unwrap_or(0),
            codel: Codel {
                target: class.target.map_or(0, nanos),
                interval: class.interval.map_or(0, nanos),
                ecn: class.ecn,
            },
            quota: quota(class.quota),
        }
    }

    fn matches(&self, class: &Class) -> ClassMatch {
        let matches = &class.matches;
        let by_packet = matches.packets != Match::default();
        let indices = |list: &[usize]| list.iter().copied().map(index).collect();
        let rule =
            |&(acl, rule): &(usize, usize)| index(self.firsts.get(acl).map_or(usize::MAX, |at| at + rule));
        ClassMatch {
            v4: by_packet.then(|| expand(&matches.packets, None, 0)),
            v6: by_packet.then(|| expand(&matches.packets, None, 0)),
            dscp: (!matches.dscp.is_empty())
                .then(|| matches.dscp.iter().fold(0, |set, dscp| set | 1 << dscp)),
            ingress: indices(&matches.ingress),
            egress: indices(&matches.egress),
            rules: matches.rules.iter().map(rule).collect(),
        }
    }
}

fn quota(quota: Quota) -> snapshot::Quota {
    let Quota { octets, each, monthly, .. } = quota;
    let period = monthly.map_or(Period::Daily, Period::Monthly);
    snapshot::Quota { octets, each, period, over: Over::Pass }
}

fn per(per: PerHost) -> (HostKey, ClassRate) {
    let rates =
        ClassRate { guaranteed: per.guaranteed.map(rate), max: per.max.map(rate), ..ClassRate::default() };
    (key(per.end, per.bits), rates)
}

fn key(end: PerEnd, bits: (u8, u8)) -> HostKey {
    match end {
        PerEnd::Source => HostKey::Source(bits.0, bits.1),
        PerEnd::Destination => HostKey::Destination(bits.0, bits.1),
    }
}
