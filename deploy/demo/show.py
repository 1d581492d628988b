"""What the demo prints: a coloured table of retention, bars of revenue, a trail."""

import json
import os
import sys
from typing import Any

from figures import Figures

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
# From pale to deep green, for a dark and for a light terminal alike: the text colour is set with it.
SHADES = (194, 157, 120, 83, 77, 71, 65, 29, 23, 22)


def heading(text: str) -> None:
    print(f"\n\x1b[1m{text}\x1b[0m" if COLOUR else f"\n{text}")


def cohorts(figures: Figures) -> None:
    """One row a cohort: its size, then the share that ordered again, month by month."""
    heading("Retention by monthly cohort: per cent of a cohort that ordered, n months after its first order")
    last = max(offset for _, offset in figures.cohorts)
    print("  cohort  customers " + "".join(f"{offset:>5}" for offset in range(last + 1)))
    for cohort in sorted({cohort for cohort, _ in figures.cohorts}):
        customers = next(cell.customers for (name, _), cell in figures.cohorts.items() if name == cohort)
        row = [figures.cohorts.get((cohort, offset)) for offset in range(last + 1)]
        shares = [cell and 100 * cell.active / cell.customers for cell in row]
        print(f"  {cohort} {customers:>10,} " + "".join(map(_share, shares)))


def _share(share: float | None) -> str:
    if share is None:
        return "     "
    text = f"{share:>5.0f}" if share >= 99.95 else f"{share:>5.1f}"
    if not COLOUR:
        return text
    # The first month is always 100; what tells something lies between 4 and 16.
    shade = min(len(SHADES) - 1, max(0, int((share - 4) / 1.2)))
    return f"\x1b[48;5;{SHADES[shade]}m\x1b[38;5;{16 if shade < 6 else 231}m{text}\x1b[0m"


def months(figures: Figures) -> None:
    heading("Revenue by month")
    most = max(month.revenue for month in figures.months.values()) or 1
    for name, month in sorted(figures.months.items()):
        bar = "█" * round(48 * month.revenue / most)
        bar = f"\x1b[38;5;71m{bar}\x1b[0m" + " " * (48 - len(bar)) if COLOUR else f"{bar:<48}"
        print(f"  {name} {bar} {month.revenue / 100:>12,.2f} USD {month.orders:>7,} orders")


def events(history: list[dict[str, Any]]) -> None:
    for event in sorted(history, key=lambda event: event["sequence"]):
        print(f"  {event['sequence']:>7}  {event['type']:<24} {_short(event.get('data'))}")


def trail(entries: list[dict[str, Any]]) -> None:
    for entry in sorted(entries, key=lambda entry: entry["sequence"]):
        print(f"  {entry['sequence']:>7}  {entry['recorded_at'][:19]}  {entry['action']:<28} by {entry['actor']}")


def resource(value: dict[str, Any]) -> None:
    for name, field in value.items():
        print(f"  {name:<12} {_short(field)}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 150 else text[:149] + "…"
