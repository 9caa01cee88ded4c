//! Ports of the box's own that NAT must leave alone, where they share an address.

use std::fs;

use crate::config::PortRange;

/// Ports that the kernel gives to its own connections, and those that services listen at, in the network namespace of the
/// calling thread; as first and last.
pub(super) fn taken() -> Vec<(u16, u16)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut taken: Vec<(u16, u16)> =
        ephemeral(&read("/proc/sys/net/ipv4/ip_local_port_range")).into_iter().collect();
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let text = read(&format!("/proc/thread-self/net/{table}"));
        taken.extend(listening(&text, state).into_iter().map(|port| (port, port)));
    }
    taken.sort_unstable();
    taken.dedup();
    taken
}

/// The longest piece of a range that has none of the taken ports; the first of equals.
pub(super) fn longest_free(range: PortRange, taken: &[(u16, u16)]) -> Option<PortRange> {
    let mut best: Option<(u32, u32)> = None;
    let mut from = u32::from(range.first);
    let end = u32::from(range.last) + 1;
    let inside = taken.iter().filter(|&&(first, last)| last >= range.first && first <= range.last);
    let edges = inside.map(|&(first, last)| (u32::from(first), u32::from(last) + 1)).chain([(end, end)]);
    for (first, after) in edges {
        let piece = (from, first.min(end));
        if piece.1 > piece.0 && best.is_none_or(|best| piece.1 - piece.0 > best.1 - best.0) {
            best = Some(piece);
        }
        from = from.max(after);
    }
    let (first, end) = best?;
    Some(PortRange { first: first as u16, last: (end - 1) as u16 })
}

fn ephemeral(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(|word| word.parse::<u16>().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Local ports of a table of /proc/net, of sockets in a state.
fn listening(table: &str, state: &str) -> Vec<u16> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let local = words.nth(1)?;
        let found = words.nth(1)?;
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (found == state && port != 0).then_some(port)
    };
    table.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(range: (u16, u16), taken: &[(u16, u16)]) -> Option<(u16, u16)> {
        let range = PortRange { first: range.0, last: range.1 };
        longest_free(range, taken).map(|range| (range.first, range.last))
    }

    #[test]
    fn the_longest_piece_without_taken_ports() {
        assert_eq!(free((1024, 65535), &[(32768, 60999)]), Some((1024, 32767)));
        assert_eq!(free((1024, 65535), &[(8080, 8080), (32768, 60999)]), Some((8081, 32767)));
        assert_eq!(free((1024, 65535), &[(22, 22), (1024, 60999)]), Some((61000, 65535)));
        assert_eq!(free((5000, 5009), &[]), Some((5000, 5009)));
        assert_eq!(free((5000, 5009), &[(5003, 5003), (5006, 5006)]), Some((5000, 5002)));
        assert_eq!(free((5000, 5009), &[(4000, 6000)]), None);
        assert_eq!(free((65535, 65535), &[(65535, 65535)]), None);
        assert_eq!(free((1, 100), &[(10, 90), (20, 30)]), Some((91, 100)));
    }

    #[test]
    fn tables_of_the_kernel() {
        let tcp = "  sl  local_address rem_address   st tx_queue\n   0: 00000000:0016 00000000:0000 0A 0:0\n   \
                   1: 0100007F:1F90 0100007F:A000 01 0:0\n junk\n";
        assert_eq!(listening(tcp, "0A"), [22]);
        assert_eq!(ephemeral("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(ephemeral("junk"), None);
    }
}
