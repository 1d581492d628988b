"""Figures as both sides give them, and their comparison: cohorts by month and offset, revenue by month."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """What a cohort did in the month that is `offset` months after its first. Money is in cents."""

    customers: int
    active: int
    orders: int
    revenue: int


@dataclass(frozen=True)
class Month:
    orders: int
    revenue: int


@dataclass(frozen=True)
class Figures:
    cohorts: dict[tuple[str, int], Cell]
    months: dict[str, Month]


def computed(file: Path) -> Figures:
    """From the published file alone, with DuckDB: nothing of ours stands between."""
    import duckdb

    db = duckdb.connect()
    db.execute(
        r"""
        CREATE TABLE orders AS
        WITH lines AS (SELECT unnest(string_split(content, chr(10))) AS line FROM read_text(?)),
             fields AS (SELECT string_split_regex(trim(line, ' ' || chr(13)), '\s+') AS f FROM lines)
        SELECT f[1] AS customer,
               date_trunc('month', strptime(f[2], '%Y%m%d'))::DATE AS month,
               (f[4]::DECIMAL(12, 2) * 100)::BIGINT AS cents
        FROM fields WHERE len(f) = 4 AND f[1] <> 'customer_id'
        """,
        [str(file)],
    )
    cohorts = db.execute(
        """
        WITH firsts AS (SELECT customer, min(month) AS cohort FROM orders GROUP BY customer),
             sizes AS (SELECT cohort, count(*) AS customers FROM firsts GROUP BY cohort)
        SELECT strftime(cohort, '%Y-%m'), datediff('month', cohort, month), any_value(customers),
               count(DISTINCT customer), count(*), sum(cents)::BIGINT
        FROM orders JOIN firsts USING (customer) JOIN sizes USING (cohort)
        GROUP BY cohort, month ORDER BY cohort, month
        """
    ).fetchall()
    months = db.execute(
        "SELECT strftime(month, '%Y-%m'), count(*), sum(cents)::BIGINT FROM orders GROUP BY month ORDER BY month"
    ).fetchall()
    return Figures(
        {(cohort, offset): Cell(*rest) for cohort, offset, *rest in cohorts},
        {month: Month(*rest) for month, *rest in months},
    )


def differences(expected: Figures, found: Figures) -> list[str]:
    """Each cell that differs, by its name. A cell that only one side has must be empty there."""
    result = []
    sizes = {cohort: cell.customers for (cohort, _), cell in expected.cohorts.items()}
    for key in sorted(expected.cohorts.keys() | found.cohorts.keys()):
        empty = Cell(sizes.get(key[0], 0), 0, 0, 0)
        result += _fields(f"cohort {key[0]}, offset {key[1]}", expected.cohorts.get(key, empty), found.cohorts.get(key, empty))
    for month in sorted(expected.months.keys() | found.months.keys()):
        empty_month = Month(0, 0)
        result += _fields(f"month {month}", expected.months.get(month, empty_month), found.months.get(month, empty_month))
    return result


def _fields(name: str, expected: Cell | Month, found: Cell | Month) -> list[str]:
    return [
        f"{name}, {field}: {getattr(expected, field)} by the file, {getattr(found, field)} by Annals"
        for field in expected.__dataclass_fields__
        if getattr(expected, field) != getattr(found, field)
    ]
