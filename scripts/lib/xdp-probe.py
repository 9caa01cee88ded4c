"""Whether this kernel lets us load an XDP program and open an AF_XDP socket. Says what it refuses, and fails."""

import ctypes
import os
import socket
import struct
import sys

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
BPF_PROG_LOAD = 5
BPF_PROG_TYPE_XDP = 6
AF_XDP = 44


def load_program():
    number = SYS_BPF.get(os.uname().machine)
    if number is None:
        return
    # r0 = XDP_PASS; exit
    instructions = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("<IIQQ", BPF_PROG_TYPE_XDP, 2, ctypes.addressof(instructions), ctypes.addressof(licence))
    attributes = ctypes.create_string_buffer(attributes.ljust(128, b"\0"))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, BPF_PROG_LOAD, attributes, 128) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


try:
    what = "an XDP program"
    load_program()
    what = "an AF_XDP socket"
    socket.socket(AF_XDP, socket.SOCK_RAW, 0).close()
except OSError as error:
    sys.exit(f"{what}: {error.strerror}")
