//! Mark: gives packets the code point of their class. They are as they leave by then, whichever way they came here.

use sluice_pkt::ds_field;

use crate::burst::{Burst, Mask};
use crate::snapshot::Snapshot;
use crate::verdict::Verdict;

/// Runs the stage.
pub fn run(burst: &mut Burst, snapshot: &Snapshot) {
    for i in Mask::first(burst.len()) {
        if burst.verdicts[i] != Verdict::Forward {
            continue;
        }
        let class = snapshot.classes.get(usize::from(burst.actions[i].class));
        let Some(dscp) = class.and_then(|class| class.mark) else { continue };
        let l3 = usize::from(burst.egress[i].header_len);
        if let Some(packet) = burst.bytes_mut(i).get_mut(l3..) {
            ds_field::set_dscp(packet, dscp);
        }
    }
}
