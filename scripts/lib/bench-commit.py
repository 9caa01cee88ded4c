"Commits large configurations to a gateway that runs, and watches its worker's loop. Called by scripts/bench-commit."

import argparse, json, os, random, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser()
parser.add_argument("--sluice")
parser.add_argument("--json", action="store_true")
parser.add_argument("--rules", type=int, default=10_000)
parser.add_argument("--routes", type=int, default=1_000_000)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--kernel-routes", type=int, default=0)
options = parser.parse_args()
folder = tempfile.mkdtemp(prefix="bench-commit-")
socket = f"{folder}/s"
chance = random.Random(1)


def destinations(count):
    "Prefixes in the lengths of a full table, none twice, in ascending order."
    lengths, found = [24] * 12 + [22, 22, 23, 23, 20, 21, 19, 18, 17, 16], set()
    while len(found) < count:
        length = chance.choice(lengths)
        address = chance.randrange(0x01000000, 0xDF000000) >> 32 - length << 32 - length
        # Neither loopback nor what the interfaces have.
        if address >> 24 not in (127, 192, 203):
            found.add((address, length))
    return sorted(found)


def rule(number, salt=0):
    host = lambda: ".".join(str(chance.randrange(256)) for _ in range(3))
    return (
        f'  {{ name = "r{number}", protocol = "{("tcp", "udp")[number % 2]}", from = "10.{host()}", '
        f'to-port = {1 + (number * 7 + salt) % 60000}, action = "{("drop", "accept")[number % 2]}" }},\n'
    )


def write(name, rules, routes):
    path = f"{folder}/{name}.toml"
    with open(path, "w") as file:
        file.write(
            '[interfaces.lan]\ndevice = "bc-lan"\naddress = "192.168.1.1/24"\nacl = "in"\n'
            '[interfaces.wan]\ndevice = "bc-wan"\naddress = "203.0.113.2/24"\n'
            f'[workers]\npoll = "busy"\n[control]\nstate = "{folder}/state"\n[acls.in]\nrules = [\n'
        )
        file.writelines(rules)
        file.write('  { action = "accept" },\n]\n')
        for (address, length), hop in routes:
            dotted = ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
            file.write(f'[[routes]]\nto = "{dotted}/{length}"\nvia = "203.0.113.{hop}"\n')
    return path


where = destinations(options.routes)
rules = [rule(number) for number in range(options.rules)]
hops = [3 + chance.randrange(100) for _ in where]
small = write("small", [], [])
large = write("large", rules, zip(where, hops))
# A few dozen changes; and another next hop for each route, as when an uplink changes.
for number in range(0, options.rules, max(1, options.rules // 10)):
    rules[number] = rule(number, 1)
some = list(hops)
for number in range(0, options.routes, max(1, options.routes // 50)):
    some[number] = 103
changed = write("changed", rules, zip(where, some))
moved = write("moved", rules, zip(where, [hop + 101 for hop in hops]))


def start(path):
    "A gateway, and what it says until it is ready."
    gateway = subprocess.Popen(
        [options.sluice, "run", path, "--socket", socket], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    for line in gateway.stdout:
        said.append(line)
        if line.startswith("ready"):
            return gateway, said
    sys.exit("the gateway did not start: " + "".join(said))


gateway, _ = start(small)


def ask(*words):
    answer = subprocess.run([options.sluice, *words, "--json", "--socket", socket], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"{' '.join(words)}: {answer.stdout}{answer.stderr}")
    return json.loads(answer.stdout)


def gaps():
    return dict(map(tuple, ask("show", "workers")[0]["gaps_ns"]))


def since(before):
    return {nanoseconds: count - before.get(nanoseconds, 0) for nanoseconds, count in gaps().items()}


def add(total, more):
    for nanoseconds, count in more.items():
        total[nanoseconds] = total.get(nanoseconds, 0) + count


def quantile(gaps, share):
    left = share * sum(gaps.values())
    for nanoseconds in sorted(gaps):
        left -= gaps[nanoseconds]
        if left <= 0:
            return nanoseconds
    return max(gaps)


def commit(path):
    begun = time.monotonic()
    entry = ask("commit", path)
    return time.monotonic() - begun, entry["outcome"]


# Until the gateway knows well what a tick is.
time.sleep(3)
ROWS = [("all routes and rules are new", large), ("60 are others", changed), ("all next hops are others", moved), ("back to a small file", small)]
times, adopted, with_commits, without = {name: [] for name, _ in ROWS}, [], {}, {}
spent = [0, 0]
for _ in range(options.rounds):
    for name, path in ROWS:
        before, begun = gaps(), time.monotonic()
        took, outcome = commit(path)
        times[name].append(took)
        adopted.append(outcome["adopt_nanoseconds"] / 1000)
        lasted = time.monotonic() - begun
        add(with_commits, since(before))
        before = gaps()
        time.sleep(lasted)
        add(without, since(before))
        spent = [spent[0] + lasted, spent[1] + lasted]
counters = ask("show", "counters")
gateway.terminate()
gateway.wait()


def kernel(count):
    "Routes of the kernel: read at the start, and 1,000 of them that come and go ten times."
    def batch(name, verb, places):
        path = f"{folder}/{name}"
        with open(path, "w") as file:
            for number in places:
                dotted = ".".join(str((20 << 16) + number >> shift & 255) for shift in (16, 8, 0))
                file.write(f"route {verb} {dotted}.0/24 via 192.168.1.9 dev bc-lan onlink\n")
        return path

    ip = lambda path: subprocess.run(["ip", "-batch", path], check=True)
    ip(batch("all", "add", range(count)))
    path = f"{folder}/kernel.toml"
    with open(small) as file, open(path, "w") as other:
        other.write(file.read() + f"[kernel-routes]\nmost-ipv4 = {max(count, 1000)}\n")
    gateway, said = start(path)
    read = next(line for line in said if line.startswith("routes:"))
    time.sleep(3)
    some = range(0, count, max(1, count // 1000))
    away, back = batch("away", "del", some), batch("back", "add", some)
    before, begun = gaps(), time.monotonic()
    for _ in range(10):
        ip(away)
        ip(back)
    lasted = time.monotonic() - begun
    flapping = since(before)
    before = gaps()
    time.sleep(lasted)
    quiet = since(before)
    total = ask("show", "routes")["total"]
    gateway.terminate()
    gateway.wait()
    return {
        "routes": total,
        "read_at_the_start_ms": int(read.split(" in ")[1].split()[0]),
        "changes_per_second": round(20 * len(some) / lasted),
        "gaps_with_changes": shown(flapping, lasted),
        "gaps_without": shown(quiet, lasted),
    }


QUANTILES = (0.5, 0.99, 0.999, 0.9999, 1)


def shown(gaps, seconds):
    longer = lambda limit: sum(count for nanoseconds, count in gaps.items() if nanoseconds >= limit)
    return {
        "seconds": round(seconds, 1),
        "polls": sum(gaps.values()),
        **{f"p{100 * q:g}_us": round(quantile(gaps, q) / 1000, 2) for q in QUANTILES},
        "longer_than_50_us_per_second": round(longer(50_000) / seconds, 1),
        "longer_than_1_ms_per_second": round(longer(1_000_000) / seconds, 1),
    }


medians = {name: round(statistics.median(took), 2) for name, took in times.items()}
result = {
    "rules": options.rules,
    "routes": options.routes,
    "commit_seconds": medians,
    "adopt_us": {"median": round(statistics.median(adopted), 1), "most": round(max(adopted), 1)},
    "gaps_with_commits": shown(with_commits, spent[0]),
    "gaps_without": shown(without, spent[1]),
    "conserved": counters["conserved"],
}
if options.kernel_routes:
    result["kernel"] = kernel(options.kernel_routes)
subprocess.run(["rm", "-rf", folder])


def side_by_side(one, other):
    for key, value in one.items():
        print(f"  {key:32} {value:14} {other[key]:12}")


if options.json:
    print(json.dumps(result, indent=2))
else:
    print(f"{options.rules} rules, {options.routes} routes, {options.rounds} rounds; commits, seconds, medians:")
    for name, seconds in medians.items():
        print(f"  {name:32} {seconds:6.2f}")
    print(f"a worker's own time for adopting one: {result['adopt_us']['median']} us (median), {result['adopt_us']['most']} us (most)")
    print("gaps between two polls:             with commits      without")
    side_by_side(result["gaps_with_commits"], result["gaps_without"])
    if "kernel" in result:
        kernel = result["kernel"]
        print(f"{kernel['routes']} routes with the kernel's, which were read in {kernel['read_at_the_start_ms']} ms")
        print(f"gaps, with {kernel['changes_per_second']} changes a second:  with changes      without")
        side_by_side(kernel["gaps_with_changes"], kernel["gaps_without"])
passes = max(medians.values()) < 2 and result["adopt_us"]["median"] < 50 and counters["conserved"]
sys.exit(0 if passes else 1)
