//! Policers.

use sluice_dataplane::snapshot;
use sluice_dataplane::table::meter::Rate;
use sluice_dataplane::table::tcm::model;

use super::{expand, index};
use crate::config::model::{Direction, Limit, LimitAction, Model, Per, Unit};

pub(super) fn compile(limit: &Limit) -> snapshot::Limit {
    snapshot::Limit {
        name: limit.name.clone(),
        interface: index(limit.interface),
        egress: limit.direction == Direction::Egress,
        v4: expand(&limit.matches, None, 0),
        v6: expand(&limit.matches, None, 0),
        // Known when those of the shaper are numbered.
        classes: Vec::new(),
        rate: rate(limit, limit.rate),
        burst: limit.burst,
        policer: (!limit.is_plain()).then(|| policer(limit)),
    }
}

fn policer(limit: &Limit) -> snapshot::Policer {
    let (model, second_rate, second_burst) = match limit.model {
        None => (model::Model::SingleRate, 0, 0),
        Some(Model::SrTcm { ebs }) => (model::Model::SingleRate, 0, ebs),
        Some(Model::TrTcm { pir, pbs }) => (model::Model::TwoRate, pir, pbs),
        Some(Model::Rfc4115 { eir, ebs }) => (model::Model::ExcessRate, eir, ebs),
    };
    let [conform, exceed, violate] = limit.actions.map(action);
    snapshot::Policer {
        model,
        second_rate: rate(limit, second_rate),
        second_burst,
        packets: limit.unit == Unit::Packets,
        aware: limit.aware,
        // One bucket knows green and red.
        actions: if limit.model.is_some() { [conform, exceed, violate] } else { [conform, exceed, exceed] },
        per: limit.per.map(|per| match per {
            Per::Source(lengths) => snapshot::Per::Source(lengths),
            Per::Destination(lengths) => snapshot::Per::Destination(lengths),
            Per::Flow => snapshot::Per::Flow,
        }),
        most: limit.most,
    }
}

fn rate(limit: &Limit, rate: u64) -> Rate {
    Rate { bits_per_second: if limit.unit == Unit::Packets { rate * 8 } else { rate } }
}

fn action(action: LimitAction) -> snapshot::ColorAction {
    match action {
        LimitAction::Pass => snapshot::ColorAction::Pass,
        LimitAction::Drop => snapshot::ColorAction::Drop,
        LimitAction::Mark { dscp, pcp } => snapshot::ColorAction::Mark(snapshot::Mark { dscp, pcp }),
    }
}
