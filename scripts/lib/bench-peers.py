"""Sums up the measurements of scripts/bench-peers.

bench-peers.py ours ROUND <FIGURES     the figures of `sluice bench table --json`, a line of JSON a row
bench-peers.py shaper ROUND <FIGURES   the figures of `sluice bench shaper --json`, likewise
bench-peers.py report ROWS [JSON]
"""

import json
import statistics
import sys


def ours(number):
    for row in json.load(sys.stdin)["rows"]:
        print(json.dumps({"round": int(number), "row": {**row, "peer": ""}}))


def shaper(number):
    of = json.load(sys.stdin)
    row = {
        "table": "shaper",
        "peer": "",
        "case": f"{of['standing']} standing" if of["standing"] else "nearly empty",
        "entries": of["queues"],
        "ns_per_op": of["ns_per_packet"],
        "build_ms": of["build_ms"],
        "bytes": of["bytes"],
        "checksum": 0,
    }
    print(json.dumps({"round": int(number), "row": row}))


def report(path, as_json=None):
    cases = {}
    with open(path) as file:
        for line in file:
            measured = json.loads(line)
            row = measured["row"]
            case = cases.setdefault((row["table"], row["entries"], row["case"]), {})
            case.setdefault(row["peer"], {})[measured["round"]] = row
    out = []
    for (table, entries, name), peers in cases.items():
        own = peers.pop("", None)
        if own is None or not peers:
            continue
        median = lambda rounds, key: statistics.median(row[key] for row in rounds.values())
        for peer, rounds in peers.items():
            pairs = [rounds[i]["ns_per_op"] / own[i]["ns_per_op"] for i in rounds if i in own]
            sums = {row["checksum"] for row in (*rounds.values(), *own.values())}
            out.append({
                "table": table,
                "entries": entries,
                "case": name,
                "peer": peer,
                "ns_sluice": round(median(own, "ns_per_op"), 2),
                "ns_peer": round(median(rounds, "ns_per_op"), 2),
                "ratio": round(statistics.median(pairs), 3),
                "ratio_range": [round(min(pairs), 3), round(max(pairs), 3)],
                "build_ms_sluice": round(median(own, "build_ms"), 1),
                "build_ms_peer": round(median(rounds, "build_ms"), 1),
                "bytes_sluice": median(own, "bytes"),
                "bytes_peer": median(rounds, "bytes"),
                # Colours depend on the clock of the day; a shaper has no result but that packets come out.
                "same_results": None if table in ("meter", "shaper") else len(sums) == 1,
            })
    if as_json:
        print(json.dumps(out, indent=2))
    else:
        print(f"{'table':6} {'entries':>8} {'case':18} {'peer':20} {'sluice ns':>9} {'peer ns':>8} {'ratio':>6}  range")
        for row in out:
            low, high = row["ratio_range"]
            print(f"{row['table']:6} {row['entries']:8} {row['case']:18} {row['peer']:20} {row['ns_sluice']:9.2f} "
                  f"{row['ns_peer']:8.2f} {row['ratio']:6.2f}  {low:.2f} to {high:.2f}"
                  f"{'' if row['same_results'] is not False else '  RESULTS DIFFER'}")
    if any(row["same_results"] is False for row in out):
        sys.exit("the peers and we do not give the same results")


if __name__ == "__main__":
    {"ours": ours, "shaper": shaper, "report": report}[sys.argv[1]](*sys.argv[2:])
