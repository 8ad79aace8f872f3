#!/usr/bin/env python3
"""Two ranks on two machines that are none: each in a network namespace, and between them a network with delay and loss.

    two_machines.py [--delay MS] [--loss PERCENT] [--mpi "ARGUMENTS"] -- COMMAND…

Runs `mpirun -n 2 COMMAND`, one rank in each namespace, and ends with its exit code. Needs root, Linux with /dev/net/tun, iproute2 and
Open MPI. The machines are two TUN devices whose packets this program carries over: each is held back for the delay, one way, or
dropped. Addresses are of 10.9.0.0/24, inside the namespaces alone.
"""

import argparse
import ctypes
import fcntl
import heapq
import os
import random
import select
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
LARGEST = 65536


def run(*words):
    subprocess.run(words, check=True)


def enter(path):
    """Moves this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


def tun(namespace, address):
    """A TUN device in a namespace; returns its file."""
    own = open("/proc/thread-self/ns/net")
    enter(f"/var/run/netns/{namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"wire", IFF_TUN | IFF_NO_PI))
    enter(f"/proc/self/fd/{own.fileno()}")
    run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "wire")
    run("ip", "-n", namespace, "link", "set", "wire", "up")
    run("ip", "-n", namespace, "link", "set", "lo", "up")
    return device


def carry(ends, delay, loss, over):
    """Carries packets between two devices until it is over."""
    waiting, number = [], 0
    while not over.is_set():
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
        ready, _, _ = select.select(ends, [], [], min(patience, 0.1))
        now = time.monotonic()
        for end in ready:
            other = ends[1 - ends.index(end)]
            while True:
                try:
                    packet = os.read(end, LARGEST)
                except BlockingIOError:
                    break
                if random.random() >= loss:
                    number += 1
                    heapq.heappush(waiting, (now + delay, number, other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            try:
                os.write(end, packet)
            except OSError:
                pass  # a full queue drops it, as networks do


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds, one way")
    parser.add_argument("--loss", type=float, default=0.0, help="percent of the packets")
    parser.add_argument("--mpi", default="", help="more arguments of mpirun")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()

    names = [f"swav-{os.getpid()}-{machine}" for machine in "ab"]
    addresses = ["10.9.0.1", "10.9.0.2"]
    over = threading.Event()
    try:
        for name in names:
            run("ip", "netns", "add", name)
        ends = [tun(*machine) for machine in zip(names, addresses)]
        wire = threading.Thread(
            target=carry, args=(ends, arguments.delay / 1e3, arguments.loss / 1e2, over)
        )
        wire.start()
        with tempfile.TemporaryDirectory() as folder:
            # How mpirun reaches a machine: AGENT ADDRESS COMMAND…
            agent = os.path.join(folder, "agent")
            cases = "\n".join(f"{a}) machine={n} ;;" for a, n in zip(addresses, names))
            with open(agent, "w") as file:
                file.write(
                    f"#!/bin/sh\ncase $1 in\n{cases}\nesac\nshift\n"
                    'exec ip netns exec $machine unshare -u sh -c "hostname $machine; $*"\n'
                )
            os.chmod(agent, stat.S_IRWXU)
            mpirun = [
                "mpirun", "--allow-run-as-root", "-n", "2", "--host", ",".join(addresses),
                "--map-by", "node", "--bind-to", "none", "--mca", "plm_rsh_agent", agent,
                "--mca", "pml", "ob1", "--mca", "btl", "tcp,self",
                "--mca", "btl_tcp_if_include", "10.9.0.0/24",
                "--mca", "oob_tcp_if_include", "10.9.0.0/24",
            ]
            inside = f'hostname {names[0]}; exec "$@"'
            command = ["ip", "netns", "exec", names[0], "unshare", "-u", "sh", "-c", inside, "sh"]
            command += mpirun + arguments.mpi.split() + arguments.command
            code = subprocess.run(command).returncode
    finally:
        over.set()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
    wire.join()
    return code


if __name__ == "__main__":
    sys.exit(main())
