use super::*;
use crate::snapshot::Policer;
use crate::stage::NO_TUPLE4;
use crate::table::classifier::PortRange;
use crate::table::meter::Rate;
use proptest::prelude::*;

/// A limit of packets from one of four addresses, or of all; if it is of those that leave, in one of three classes, or of all.
fn limit(((interface, egress, from, metered), class): ((u16, bool, u32, bool), u16)) -> Limit {
    let rule = Rule {
        src: (from, if from == 4 { 0 } else { 3 }),
        dst: (0, 0),
        protocol: None,
        src_port: PortRange::ANY,
        dst_port: PortRange::ANY,
        icmp_type: None,
        icmp_code: None,
        established: None,
        result: 0,
    };
    Limit {
        name: String::new(),
        interface,
        egress,
        v4: vec![rule],
        v6: Vec::new(),
        classes: if egress && class < 3 { vec![class, 7] } else { Vec::new() },
        rate: Rate::default(),
        burst: 0,
        policer: metered.then(Policer::default),
    }
}

proptest! {
    #![proptest_config(crate::table::cases(300))]

    #[test]
    fn the_first_limit_that_fits_is_chosen_for_each_end_of_each_way(
        list in prop::collection::vec(((0..3u16, any::<bool>(), 0..5u32, any::<bool>()), 0..6u16), 0..8),
        (ingress, egress, src, dst) in (0..3u16, 0..3u16, 0..4u32, 0..4u32),
        classes in [0..4u16, 0..4u16],
    ) {
        let snapshot = Snapshot { limits: list.iter().copied().map(limit).collect(), ..Snapshot::default() };
        let mut decision = Decision { egress, dst: (dst, 0), classes, ..Decision::NONE };
        choose4(&mut decision, ingress, &snapshot, Tuple4 { src, dst, ..NO_TUPLE4 });

        let first = |at: u16, out: Option<u16>, from: u32| {
            let fits = |&((on, egress, limited, _), of): &((u16, bool, u32, bool), u16)| {
                (on, egress) == (at, out.is_some())
                    && (limited == 4 || limited == from)
                    && out.is_none_or(|class| of >= 3 || of == class)
            };
            list.iter().position(fits)
        };
        let chosen = [
            [first(ingress, None, src), first(egress, Some(classes[0]), src)],
            [first(egress, None, dst), first(ingress, Some(classes[1]), dst)],
        ];
        for (limits, chosen) in decision.limits.iter().zip(chosen) {
            prop_assert_eq!(limits.of, chosen.map(|limit| limit.map_or(NO_LIMIT, |limit| limit as u8)));
            prop_assert_eq!(limits.metered, chosen.iter().flatten().any(|&limit| list[limit].0.3));
        }
    }
}
