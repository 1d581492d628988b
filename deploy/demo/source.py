"""The purchase history: every order of the 23,570 people who first bought at CDNOW in the first quarter of 1997.

It comes inside the package `lifetimes`, is fetched when needed and is never part of this repository.
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "lifetimes==0.11.3"
MEMBER = "lifetimes/datasets/CDNOW_master.txt"
SHA256 = "eff6889ed364c5199d6eacbbeb7a6d559971df4406ac876f322c373f00a072ef"


def fetch(work: Path) -> Path:
    """The file as it was published, checked by its hash."""
    file = work / "CDNOW_master.txt"
    if not file.exists():
        print(f"Fetching the purchase history ({PACKAGE})")
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary", ":all:", "--dest", str(work), PACKAGE],
            check=True,
        )
        wheel = next(work.glob("[Ll]ifetimes-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            # It gets its name last: a file of that name is complete.
            part = work / "CDNOW_master.part"
            part.write_bytes(archive.read(MEMBER))
            part.rename(file)
        wheel.unlink()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{file} is not the file that this demo knows (SHA-256 {found}); remove it and try again")
    return file


def write_csv(file: Path, csv: Path) -> int:
    """The CSV that `annals import orders` reads, one line for each line of the file, in its order; answers how many.

    A line's identity is the CSV's name and the line's number, so neither may change from one run to the next.
    """
    count = 0
    with file.open(encoding="ascii") as lines, csv.open("w", encoding="ascii", newline="\n") as out:
        next(lines)
        out.write("customer,placed_at,quantity,amount,currency\n")
        for line in lines:
            customer, date, quantity, amount = line.split()
            out.write(f"{customer},{date[:4]}-{date[4:6]}-{date[6:]}T00:00:00Z,{quantity},{amount},USD\n")
            count += 1
    return count


def regulars(file: Path) -> list[str]:
    """Customers with 8 to 12 orders, in the file's order: long enough a history to be worth showing, and erasing."""
    orders: dict[str, int] = {}
    with file.open(encoding="ascii") as lines:
        next(lines)
        for line in lines:
            customer = line.split()[0]
            orders[customer] = orders.get(customer, 0) + 1
    return [customer for customer, count in orders.items() if 8 <= count <= 12]
