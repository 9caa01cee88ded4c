"""soak.py SLUICE CONFIG MINUTES SEED: drives scripts/soak, in the lab that soak-live has made.

What is done, and when, follows from the seed. The first two thirds of the time hold everything; the last third has no
restart, so that one process lives long enough for its memory to be judged.
"""

import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LOG = "/run/demo/gateway.log"
SERVER4, SERVER6 = "198.51.100.7", "2001:db8:7::7"
RECOVERY = 5.0  # seconds within which traffic flows again
READY = 5.0
# KiB that may be taken beside what the tables have, and KiB that may come into use: the tables' pages do with the first
# session that lies in them.
TAKEN_GROWTH, USED_GROWTH = 4096, 6144
SETTLING = 8  # seconds: more than the configuration's timeouts
SIDES = {
    "lan": ("fd00:1::10/64", [["default", "via", "192.168.1.1"]], [["default", "via", "fd00:1::1"]]),
    "wan": ("2001:db8:2::1/64", [], [["fd00:1::/64", "via", "2001:db8:2::2"]]),
}


class Wrong(Exception):
    """What the gateway does, and should not."""


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def ip(namespace, *words):
    return run("ip", "-n", namespace, *words)


def inside(namespace, *command):
    return run("ip", "netns", "exec", namespace, *command)


class Gateway:
    def __init__(self, sluice, config):
        self.sluice, self.config = sluice, config
        with open(config) as file:
            self.text = file.read()
        self.start()

    def start(self):
        # Whatever a reload has left in its place.
        with open(self.config, "w") as file:
            file.write(self.text)
        # Appended to, as control of a gateway that was killed may still have a word to say.
        open(LOG, "w").close()
        with open(LOG, "a") as log:
            command = ["ip", "netns", "exec", "gw", self.sluice, "run", self.config]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + READY
        while not any(line.startswith("ready") for line in self.log()):
            if time.monotonic() > until or self.process.poll() is not None:
                raise Wrong(f"not ready within {READY} s: {self.log()[-1:]}")
            time.sleep(0.02)

    def reload(self, text):
        with open(self.config, "w") as file:
            file.write(text)
        self.process.send_signal(signal.SIGHUP)

    def log(self):
        with open(LOG) as file:
            return file.read().splitlines()

    def is_dead(self):
        return self.process.poll() is not None

    def stop(self):
        """By SIGTERM, and with everything accounted for."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(10)
        except subprocess.TimeoutExpired:
            raise Wrong("10 s after SIGTERM it still runs") from None
        last = self.log()[-1]
        home = re.search(r"(\d+) of (\d+) packet buffers home, conserved: true", last)
        if status != 0 or not home or home[1] != home[2]:
            raise Wrong(f"at SIGTERM: status {status}, {last}")
        return last

    def kill(self):
        self.process.kill()
        self.process.wait()

    def show(self, topic):
        said = run(self.sluice, "show", topic, "--json")
        if said.returncode != 0:
            raise Wrong(f"show {topic}: {said.stderr.strip()}")
        return json.loads(said.stdout)

    def counters(self):
        counters = self.show("counters")
        if not counters["conserved"]:
            raise Wrong(f"not conserved: {json.dumps(counters)}")
        return counters

    def memory(self):
        """KiB of memory that it has taken, KiB that are in use, and file descriptors."""
        with open(f"/proc/{self.process.pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        taken, used = (int(fields[name].split()[0]) for name in ("VmData", "VmRSS"))
        return taken, used, len(os.listdir(f"/proc/{self.process.pid}/fd"))


class Soak:
    def __init__(self, gateway, seed):
        self.gateway = gateway
        self.random = random.Random(seed)
        self.done = collections.Counter()
        self.slowest = 0.0

    # The actions.

    def flap(self, namespace, device):
        ip(namespace, "link", "set", device, "down")
        time.sleep(self.random.uniform(0.02, 0.6))
        ip(namespace, "link", "set", device, "up")

    def flap_gateway(self):
        self.flap("gw", self.random.choice(["sluice-lan", "sluice-wan"]))

    def flap_peer(self):
        side = self.random.choice(["lan", "wan"])
        self.flap(side, "eth0")
        address, routes4, routes6 = SIDES[side]
        # With the link go IPv6 addresses, and all routes over it.
        ip(side, "address", "replace", address, "dev", "eth0", "nodad")
        for route in routes4:
            ip(side, "route", "replace", *route)
        for route in routes6:
            ip(side, "-6", "route", "replace", *route)

    def reload(self):
        """Another configuration, one that wants a restart, or one that is wrong."""
        said = len(self.gateway.log())
        self.gateway.reload(self.variant())
        until = time.monotonic() + READY
        while not any("adopted" in line for line in self.gateway.log()[said:]):
            if self.gateway.is_dead():
                raise Wrong(f"it died: {self.gateway.log()[-1:]}")
            if time.monotonic() > until:
                raise Wrong(f"nothing came of a reload within {READY} s: {self.gateway.log()[said:]}")
            time.sleep(0.02)

    def variant(self):
        """The configuration of the start with something else about it; all let the traffic pass."""
        text = self.gateway.text
        kind = self.random.choice(["same", "rule", "limit", "timeout", "icmp", "restart", "wrong"])
        if kind == "rule":
            port = self.random.randrange(20000, 30000)
            rule = f'{{ name = "soak-{port}", protocol = "tcp", to-port = {port}, action = "drop" }},'
            text = text.replace("rules = [", f"rules = [\n  {rule}", 1)
        elif kind == "limit":
            text += f'\n[[limits]]\nname = "soak"\nout = "wan"\nprotocol = "tcp"\nto-port = 9\nrate = "{self.random.randrange(1, 50)} Mbit/s"\n'
        elif kind == "timeout":
            text = text.replace('udp             = "3s"', f'udp             = "{self.random.randrange(2, 5)}s"')
        elif kind == "icmp":
            text += f"\n[icmp]\nerrors-per-second = {self.random.randrange(500, 2000)}\n" if "[icmp]" not in text else ""
        elif kind == "restart":
            text = text.replace("sessions  = 4096", "sessions  = 4097")
        elif kind == "wrong":
            text += "\n[nonsense]\n"
        return text

    def ask(self):
        self.gateway.counters()
        self.gateway.show(self.random.choice(["flows", "nat", "neighbors", "interfaces", "acl", "limits"]))

    def restart(self):
        self.gateway.stop()
        time.sleep(self.random.uniform(0, 0.3))
        self.gateway.start()

    def kill(self):
        self.gateway.kill()
        self.gateway.start()

    # The checks.

    def flows(self):
        """Traffic flows, in both families and on all flows' queues; how long that took, in seconds."""
        began = time.monotonic()
        for address in (SERVER4, SERVER6):
            while inside("lan", "ping", "-n", "-q", "-c", "1", "-W", "1", address).returncode != 0:
                if self.gateway.is_dead():
                    raise Wrong(f"it died: {self.gateway.log()[-1:]}")
                if time.monotonic() - began > RECOVERY:
                    raise Wrong(f"{address} is out of reach for {RECOVERY} s")
        return time.monotonic() - began

    def go_on(self, until, actions):
        names, weights = zip(*actions.items())
        while time.monotonic() < until:
            time.sleep(self.random.uniform(0.1, 1.5))
            name = self.random.choices(names, weights)[0]
            getattr(self, name)()
            self.done[name] += 1
            try:
                self.slowest = max(self.slowest, self.flows())
            except Wrong as wrong:
                raise Wrong(f"after {name}: {wrong}") from None


def traffic():
    """UDP of many flows (echoed, refused, unanswered), TCP, large pings, until they are killed."""
    def lan(*command):
        return subprocess.Popen(["ip", "netns", "exec", "lan", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    fetch = f"while :; do curl -s -m 2 -o /dev/null http://{SERVER4}/file; curl -s -m 2 -o /dev/null 'http://[{SERVER6}]/file'; sleep 0.05; done"
    large = f"while :; do ping -n -q -i 0.05 -c 100 -s 3000 {SERVER4}; sleep 0.1; done"
    return [lan(sys.executable, f"{HERE}/soak-udp.py", SERVER4, SERVER6), lan("sh", "-c", fetch), lan("sh", "-c", large)]


class Report:
    def __init__(self):
        self.rows, self.failed = [], 0

    def step(self, name, check):
        began = time.monotonic()
        try:
            result, seen = "pass", check()
        except Wrong as wrong:
            result, seen = "fail", str(wrong)
            self.failed += 1
        self.rows.append(f"{result}  {time.monotonic() - began:6.2f} s  {name:28}  {seen}")
        print(self.rows[-1], flush=True)
        return result == "pass"

    def table(self):
        print("\nSoak:", *self.rows, "", sep="\n")
        print(f"{len(self.rows) - self.failed} passed, {self.failed} failed, 0 skipped")


def main(sluice, config, minutes, seed):
    seconds = float(minutes) * 60
    report = Report()
    gateway = Gateway(sluice, config)
    soak = Soak(gateway, int(seed))
    clients = traffic()
    quiet = {"flap_gateway": 4, "flap_peer": 4, "reload": 3, "ask": 3}
    rough = quiet | {"restart": 2, "kill": 2}
    began = time.monotonic()
    before = ()

    def phase(until, actions):
        soak.done.clear()
        soak.go_on(began + until, actions)
        return ", ".join(f"{count} {name}" for name, count in sorted(soak.done.items()))

    def memory():
        after = gateway.memory()
        growth = [after - before for before, after in zip(before, after)]
        seen = f"taken {after[0]} KiB ({growth[0]:+}), in use {after[1]} KiB ({growth[1]:+}), descriptors {after[2]} ({growth[2]:+})"
        if growth[0] > TAKEN_GROWTH or growth[1] > USED_GROWTH or growth[2] > 0:
            raise Wrong(f"it grew: {seen}")
        return seen

    def queues():
        rows = {row["name"]: row for row in gateway.show("interfaces")}
        first = {name: row["rx_packets"] for name, row in rows.items()}
        said = inside("lan", "ping", "-n", "-q", "-i", "0.01", "-c", "200", "-W", "2", SERVER4)
        udp = inside("lan", sys.executable, f"{HERE}/udp-echo.py", "ask", SERVER4, "7")
        if " 200 received" not in said.stdout or udp.returncode != 0:
            raise Wrong(f"{said.stdout.strip()} {udp.stderr.strip()}")
        rows = {row["name"]: row["rx_packets"] - first[row["name"]] for row in gateway.show("interfaces")}
        return f"200 of 200 pings; {udp.stdout.strip()}; received {rows}"

    def conserved():
        until = time.monotonic() + 10
        while (counters := gateway.counters())["held"] and time.monotonic() < until:
            time.sleep(0.1)
        if counters["held"]:
            raise Wrong(f"{counters['held']} packets are held")
        drops = {name: count for name, count in counters["drops"].items() if count}
        return f"nothing held; drops: {drops}"

    lives = report.step("flaps, reloads, restarts", lambda: phase(seconds * 2 / 3, rough))
    if lives:
        # What a session takes is given back in time: from then on as much comes as goes.
        time.sleep(SETTLING)
        # Listings are made in memory, which the allocator keeps for the next one.
        for topic in ["flows", "nat"] * 4:
            gateway.show(topic)
        before = gateway.memory()
        lives = report.step("flaps, reloads", lambda: phase(seconds, quiet))
    if lives:
        report.step("memory", memory)
        for client in clients:
            client.kill()
        report.step("conservation", conserved)
        report.step("queues", queues)
        report.step("recovery", lambda: f"{soak.slowest:.2f} s at the longest, {RECOVERY} s allowed")
        report.step("SIGTERM", gateway.stop)
    else:
        print(*gateway.log(), sep="\n")
    report.table()
    sys.exit(report.failed != 0)


main(*sys.argv[1:])
