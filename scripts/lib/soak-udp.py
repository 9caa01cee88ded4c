"""soak-udp.py ADDRESS...: some thousand datagrams a second, of many flows and lengths: to the echo service, to a closed
port (which is answered by ICMP), with and without fragments. Whatever the network answers, it goes on."""

import contextlib
import ipaddress
import random
import socket
import sys
import time

PORTS = [7, 7, 7, 9]
LENGTHS = [0, 18, 200, 1000, 1372, 2900]

generator = random.Random(7)
data = generator.randbytes(max(LENGTHS))
clients = []
for address in sys.argv[1:]:
    family = socket.AF_INET if ipaddress.ip_address(address).version == 4 else socket.AF_INET6
    clients += [(socket.socket(family, socket.SOCK_DGRAM), address) for _ in range(64)]
for client, _ in clients:
    client.setblocking(False)
while True:
    for client, address in generator.sample(clients, 8):
        with contextlib.suppress(OSError):
            client.sendto(data[: generator.choice(LENGTHS)], (address, generator.choice(PORTS)))
        with contextlib.suppress(OSError):
            while True:
                client.recv(65536)
    time.sleep(0.002)
