"""Datagrams that come back: their contents are made from a seed, so that a changed byte is seen.

udp-echo.py serve PORT
udp-echo.py ask ADDRESS PORT     from 32 ports, of every length up to 1372; up to three tries each
"""

import random
import socket
import sys

PORTS = 32
LONGEST = 1372  # with 28 bytes of headers, a link of 1400


def serve(port):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", port))
    while True:
        data, client = udp.recvfrom(65536)
        udp.sendto(data, client)


def ask(address, port):
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(PORTS)]
    generator = random.Random(1)
    again = 0
    for client in clients:
        client.connect((address, port))
        client.settimeout(2)
    for length in range(LONGEST + 1):
        client = clients[length % PORTS]
        data = generator.randbytes(length)
        for attempt in range(3):
            client.send(data)
            try:
                if client.recv(65536) == data:
                    break
                sys.exit(f"a datagram of {length} bytes came back changed")
            except TimeoutError:
                again += 1
        else:
            sys.exit(f"a datagram of {length} bytes does not come back")
    print(f"{LONGEST + 1} datagrams of 0 to {LONGEST} bytes from {PORTS} ports came back right, {again} asked again")


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], int(sys.argv[3]))
