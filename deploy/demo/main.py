"""`./dev demo`: import, report, compare, erase, compare again. Ends with 1 if any figure is not what it must be."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import erasure
import figures
import show
import source
from client import Client


def main() -> int:
    arguments = parse()
    tenant = json.loads(arguments.tenant.read_text())
    client = Client(arguments.url, tenant["key"]["key"])
    approver = Client(arguments.url, tenant["approver"]["key"])

    file = source.fetch(arguments.work)
    csv = arguments.work / "cdnow.csv"
    orders = source.write_csv(file, csv)
    expected = figures.computed(file)

    run_import(arguments, csv, client.key, orders, len(customers_of(csv)))
    found = await_figures(client, expected)
    show.cohorts(found)
    show.months(found)
    show.heading("Key figures")
    show.resource(client.kpis())
    if not passed("every cell is what DuckDB computes from the file", expected, figures.differences(expected, found)):
        return 1

    faults = erasure.run(client, approver, source.regulars(file), arguments.erased, found)
    return 0 if passed("the person is gone, and no cell has changed", expected, faults) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="address of Annals")
    parser.add_argument("--annals", required=True, help="the program, for the import")
    parser.add_argument("--pid", type=int, required=True, help="the process that serves, whose memory is shown")
    parser.add_argument("--tenant", type=Path, required=True, help="JSON with the tenant's two keys")
    parser.add_argument("--erased", type=Path, required=True, help="file that remembers who has been erased")
    parser.add_argument("--work", type=Path, required=True, help="folder for the purchase history")
    return parser.parse_args()


def customers_of(csv: Path) -> set[str]:
    return {line.split(",", 1)[0] for line in csv.read_text().splitlines()[1:]}


def run_import(arguments: argparse.Namespace, csv: Path, key: str, orders: int, customers: int) -> None:
    show.heading(f"Importing {orders:,} orders of {customers:,} customers through the API")
    began = time.monotonic()
    # Every user of the machine can read the arguments of a process, but not its environment.
    environment = os.environ | {"ANNALS_API_KEY": key}
    done = subprocess.run([arguments.annals, "import", "orders", str(csv), "--url", arguments.url], env=environment)
    took = time.monotonic() - began
    if done.returncode:
        sys.exit(f"the import ended with {done.returncode}")
    commands = orders + customers
    print(f"  {commands:,} commands in {took:.1f} s: {commands / took:,.0f} a second. {memory(arguments.pid)}")


def memory(pid: int) -> str:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    now, most = (int(lines[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM"))
    return f"Annals takes {now} MB, and took {most} MB at most."


def await_figures(client: Client, expected: figures.Figures) -> figures.Figures:
    """The reports follow the log with a little delay. They are right within 10 s, or they are taken as wrong."""
    began = time.monotonic()
    while True:
        found = client.figures()
        waited = time.monotonic() - began
        if not figures.differences(expected, found):
            print(f"  The reports were complete {waited:.1f} s after the last answer.")
            return found
        if waited > 10:
            return found
        time.sleep(0.1)


def passed(claim: str, expected: figures.Figures, faults: list[str]) -> bool:
    cells = len(expected.cohorts) * 4 + len(expected.months) * 2
    if not faults:
        show.heading(f"Compared {cells} figures in {len(expected.cohorts)} cells of cohorts and {len(expected.months)} months: {claim}.")
        return True
    show.heading(f"{len(faults)} faults where it should be that {claim}:")
    for fault in faults[:20]:
        print("  " + fault)
    if len(faults) > 20:
        print(f"  … and {len(faults) - 20} more")
    return False


if __name__ == "__main__":
    # The import's own lines must come in order with ours, also when the output is a file.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main())
