"""Sums up the measurements of scripts/bench-veth.

bench-veth.py row FORWARDER LOADS-BEFORE SINK-BEFORE LOADS-AFTER SINK-AFTER PERF SOFTIRQS-BEFORE SOFTIRQS-AFTER WORKERS
    one measurement, as a line of JSON; of the loads a line each
bench-veth.py report ROWS CORE [JSON]
bench-veth.py workers ROWS COUNT [JSON]
"""

import json
import statistics
import sys


def softirqs(path):
    with open(path) as file:
        return [int(word) for word in file.read().split()[1:]]


def rate(before, after):
    """Packets a second between two answers of a load or a sink, and packets by core."""
    pps, by_core = 0, []
    for one, other in zip(before.splitlines(), after.splitlines()):
        one, other = json.loads(one), json.loads(other)
        counts = [b - a for a, b in zip(one["by_core"], other["by_core"])]
        pps += sum(counts) / (other["seconds"] - one["seconds"])
        by_core = [a + b for a, b in zip(by_core, counts)] or counts
    return pps, by_core


def row(forwarder, load_before, sink_before, load_after, sink_after, perf, softirqs_before, softirqs_after, workers):
    offered, _ = rate(load_before, load_after)
    pps, by_core = rate(sink_before, sink_after)
    used = {}
    with open(perf) as file:
        for line in file:
            fields = line.strip().split(",")
            if len(fields) > 2 and fields[0].replace(".", "").isdigit():
                used[fields[2]] = float(fields[0])
    samples = used.get("own", 0) + used.get("kernel", 0)
    seconds = json.loads(sink_after)["seconds"] - json.loads(sink_before)["seconds"]
    softirq = [b - a for a, b in zip(softirqs(softirqs_before), softirqs(softirqs_after))]
    print(json.dumps({
        "rate": forwarder,
        "pps": round(pps),
        "offered_pps": round(offered),
        "lost": round(1 - pps / offered, 3),
        "own_share": round(used.get("own", 0) / samples, 3) if samples else None,
        "core_share": round(used["task-clock"] / 1e3 / seconds, 2) if "task-clock" in used else None,
        "sink_packets_by_core": by_core,
        "net_rx_softirqs_by_core": softirq,
        "workers": vitals(workers),
    }))


def vitals(path):
    """What the workers said of themselves under the load."""
    keys = ("core", "packets_per_second", "burst_p50", "burst_p99", "cycles_per_packet", "idle_percent", "crossed_percent", "stalls")
    with open(path) as file:
        return [{key: worker[key] for key in keys} for worker in json.load(file)]


def report(path, core, as_json=None):
    with open(path) as file:
        rows = [json.loads(line) for line in file]
    rates = {name: [r for r in rows if r.get("rate") == name] for name in ("testpmd", "sluice")}
    median = {name: statistics.median(r["pps"] for r in of) for name, of in rates.items()}
    pairs = [s["pps"] / t["pps"] for t, s in zip(rates["testpmd"], rates["sluice"])]
    shares = [r["own_share"] for r in rates["sluice"] if r["own_share"] is not None]
    out = {
        "pairs": len(pairs),
        "forwarder_core": int(core),
        "sluice_pps": median["sluice"],
        "testpmd_pps": median["testpmd"],
        "ratio_testpmd": round(statistics.median(pairs), 3),
        "ratio_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "offered_pps": {n: statistics.median(r["offered_pps"] for r in of) for n, of in rates.items()},
        "least_lost": {n: min(r["lost"] for r in of) for n, of in rates.items()},
        "overloaded": all(r["lost"] > 0.01 for of in rates.values() for r in of),
        "own_share": round(statistics.median(shares), 3) if shares else None,
        "core_share": {n: [r["core_share"] for r in of] for n, of in rates.items()},
        "sink_napi_by_core": {n: [sum(c) for c in zip(*(r["sink_packets_by_core"] for r in of))] for n, of in rates.items()},
        "net_rx_softirqs_by_core": {n: [sum(c) for c in zip(*(r["net_rx_softirqs_by_core"] for r in of))] for n, of in rates.items()},
        "latency_us": {r["latency"]: {"p50": r["p50_us"], "p99": r["p99_us"], "packets": r["packets"]} for r in rows if "latency" in r},
        "runs": {n: [r["pps"] for r in of] for n, of in rates.items()},
    }
    if as_json:
        print(json.dumps(out, indent=2))
        return
    mega = lambda pps: f"{pps / 1e6:.3f} Mpps"
    print(f"sluice  {mega(out['sluice_pps'])} (everything on), offered {mega(out['offered_pps']['sluice'])}")
    print(f"testpmd {mega(out['testpmd_pps'])} (nothing on), offered {mega(out['offered_pps']['testpmd'])}")
    print(f"ratio_testpmd {out['ratio_testpmd']}, median of {out['pairs']} pairs, {out['ratio_range'][0]} to {out['ratio_range'][1]}")
    if not out["overloaded"]:
        print("not overloaded: the load was too small, and the figures say nothing")
    if shares:
        print(f"own code: {out['own_share']:.1%} of the worker's time; the rest is the kernel's")
    held = [share for of in out["core_share"].values() for share in of if share is not None]
    if held and min(held) < 0.8:
        print(f"disturbed: in a run the forwarder had its core for {min(held):.0%} of the time only")
    for name, cores in out["sink_napi_by_core"].items():
        print(f"{name}: the forwarder ran on core {core}; NAPI of the sink by core, packets: {cores}; "
              f"NET_RX softirqs by core: {out['net_rx_softirqs_by_core'][name]}")
    for name, of in out["latency_us"].items():
        print(f"latency {name:16} p50 {of['p50']:7.1f} µs  p99 {of['p99']:7.1f} µs  ({of['packets']} packets)")


def workers(path, count, as_json=None):
    """One worker against several."""
    with open(path) as file:
        rows = [json.loads(line) for line in file]
    rates = {n: [r for r in rows if r["rate"] == name] for n, name in (("1", "sluice"), (count, f"sluice-{count}"))}
    pairs = [many["pps"] / one["pps"] for one, many in zip(rates["1"], rates[count])]
    of = lambda key: {n: [r[key] for r in rs] for n, rs in rates.items()}
    out = {
        "pairs": len(pairs),
        "pps": {n: statistics.median(runs) for n, runs in of("pps").items()},
        "ratio": round(statistics.median(pairs), 3),
        "ratio_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "offered_pps": {n: statistics.median(runs) for n, runs in of("offered_pps").items()},
        "overloaded": all(lost > 0.01 for runs in of("lost").values() for lost in runs),
        "own_share": of("own_share"),
        "core_share": of("core_share"),
        "sink_napi_by_core": of("sink_packets_by_core"),
        "runs": of("pps"),
        "workers": of("workers"),
    }
    if as_json:
        print(json.dumps(out, indent=2))
        return
    for n in rates:
        print(f"{n} worker{'s' * (n != '1')}: {out['pps'][n] / 1e6:.3f} Mpps, offered {out['offered_pps'][n] / 1e6:.3f}; "
              f"cores' worth of time {out['core_share'][n]}, own code {out['own_share'][n]}")
        for worker in out["workers"][n][-1]:
            print("   in the last run:", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in worker.items()))
    print(f"ratio {out['ratio']}, median of {out['pairs']} pairs, {out['ratio_range'][0]} to {out['ratio_range'][1]}")
    if not out["overloaded"]:
        print("not overloaded: the load was too small, and the figures say nothing")


{"row": row, "report": report, "workers": workers}[sys.argv[1]](*sys.argv[2:])
