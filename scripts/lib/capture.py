"""Reads classic pcap files of Ethernet frames, far enough to check what the demo's clients did."""

import ipaddress
import struct

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58


class Packet:
    """An IP packet: addresses as text, ports (or ICMP type and code), `body` behind the fixed L4 header."""

    def __init__(self, ip):
        self.ip = ip
        self.fragment = False
        self.later = False
        version = ip[0] >> 4
        if version == 4:
            header = (ip[0] & 15) * 4
            length, _, offset = struct.unpack_from(">HHH", ip, 2)
            self.protocol = ip[9]
            self.source, self.destination = (str(ipaddress.IPv4Address(ip[i : i + 4])) for i in (12, 16))
            self.header_right = fold(ip[:header]) == 0xFFFF
            pseudo = ip[12:20]
            self.fragment = offset & 0x3FFF != 0
            self.later = offset & 0x1FFF != 0
        else:
            header, length, self.protocol = 40, 40 + struct.unpack_from(">H", ip, 4)[0], ip[6]
            self.source, self.destination = (str(ipaddress.IPv6Address(ip[i : i + 16])) for i in (8, 24))
            self.header_right = True
            pseudo = ip[8:40]
            if self.protocol == 44:
                self.protocol, offset = ip[40], struct.unpack_from(">H", ip, 42)[0]
                self.fragment, self.later, header = True, offset & 0xFFF8 != 0, 48
        self.l4 = ip[header:length]
        self.a = self.b = None
        self.body = b""
        if self.later or len(self.l4) < 8:
            return
        if self.protocol in (TCP, UDP):
            self.a, self.b = struct.unpack_from(">HH", self.l4)
            start = (self.l4[12] >> 4) * 4 if self.protocol == TCP else 8
            self.body = self.l4[start:]
        elif self.protocol in (ICMP, ICMPV6):
            self.a, self.b = self.l4[0], self.l4[1]
            self.body = self.l4[8:]
        if self.protocol != ICMP:
            pseudo += struct.pack(">II", len(self.l4), self.protocol)
        else:
            pseudo = b""
        self.l4_right = self.fragment or fold(pseudo + self.l4) == 0xFFFF

    @property
    def echo(self):
        """Identifier and sequence number."""
        return struct.unpack_from(">HH", self.l4, 4)

    @property
    def quoted(self):
        """The packet that an ICMP error is about."""
        return Packet(self.body)

    @property
    def right(self):
        """Whether the checksums are."""
        return self.header_right and (self.later or self.l4_right)


def fold(data):
    """The one's complement sum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def read(path):
    """The IP packets of a capture."""
    with open(path, "rb") as file:
        data = file.read()
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    packets = []
    at = 24
    while at < len(data):
        length = struct.unpack_from(order + "I", data, at + 8)[0]
        frame = data[at + 16 : at + 16 + length]
        if frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
            packets.append(Packet(frame[14:]))
        at += 16 + length
    return packets


def streams(packets):
    """What each direction of each TCP connection carried: {(source, port, destination, port): bytes}."""
    start, pieces = {}, {}
    for packet in packets:
        if packet.protocol != TCP or packet.later:
            continue
        key = (packet.source, packet.a, packet.destination, packet.b)
        sequence = struct.unpack_from(">I", packet.l4, 4)[0]
        if packet.l4[13] & 2:
            start[key] = sequence + 1
        elif key in start and packet.body:
            pieces.setdefault(key, {})[(sequence - start[key]) & 0xFFFFFFFF] = packet.body
    carried = {}
    for key, parts in pieces.items():
        data = b""
        for offset in sorted(parts):
            if offset <= len(data):
                data += parts[offset][len(data) - offset :]
        carried[key] = data
    return carried
