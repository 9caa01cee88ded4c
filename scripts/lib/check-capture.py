"""check-capture.py PCAP ADDRESS: what a gateway sent to the outside has right checksums, and IPv4 packets come from the
public address alone."""

import collections
import ipaddress
import sys

import capture

NAMES = {capture.TCP: "TCP", capture.UDP: "UDP", capture.ICMP: "ICMP", capture.ICMPV6: "ICMPv6"}

packets = capture.read(sys.argv[1])
count = collections.Counter()
for packet in packets:
    if not packet.right:
        sys.exit(f"a wrong checksum: {packet.ip.hex()}")
    source = ipaddress.ip_address(packet.source)
    if source.version == 4 and packet.source != sys.argv[2]:
        sys.exit(f"a packet from {packet.source}: {packet.ip.hex()}")
    count[NAMES.get(packet.protocol, packet.protocol)] += 1
missing = [name for name in NAMES.values() if not count[name]]
if missing:
    sys.exit(f"no {', '.join(missing)} in {len(packets)} packets")
print(f"{len(packets)} packets ({', '.join(f'{n} {name}' for name, n in count.items())}): addresses and checksums right")
