"""One person is named, shown, and erased; then nothing about them opens any more, and no figure has changed."""

import json
from pathlib import Path
from typing import Any

import show
from client import Client, Problem
from figures import Figures, differences

NAME = "Ada Byron"


def choose(client: Client, regulars: list[str], erased: Path) -> dict[str, Any]:
    """A customer whom no earlier run has erased."""
    done = set(erased.read_text().split()) if erased.exists() else set()
    for number in regulars:
        if number in done:
            continue
        try:
            customer = client.customer(f"ext:{number}")
        except Problem as problem:
            if problem.status != 404:
                raise
            continue
        if customer["status"] == "active":
            return customer | {"external_id": number}
    raise SystemExit("every regular customer has been erased: ./dev down && rm -rf .dev/run begins again")


def run(asker: Client, approver: Client, regulars: list[str], erased: Path, before: Figures) -> list[str]:
    """Answers what is wrong afterwards; nothing, if all is well."""
    customer = choose(asker, regulars, erased)
    number, id_ = customer["external_id"], customer["id"]
    email = f"ada.{number}@example.com"

    show.heading(f"Customer {number} gets a name and an e-mail")
    show.resource(asker.name_customer(id_, NAME, email))
    show.heading("The history of this customer, as one who may see personal data sees it")
    show.events(asker.history(id_))
    show.heading("The audit trail of this customer")
    show.trail(asker.trail(id_))

    show.heading("Erasure: asked for with one key, approved with another")
    request = asker.request_erasure(id_)
    # Noted before it can happen: a run that ends here must not be followed by one that chooses the same customer.
    with erased.open("a") as file:
        file.write(number + "\n")
    approver.approve(request)
    show.resource(asker.await_erasure(request))

    show.heading("What is left of this customer")
    left = asker.customer(id_)
    show.resource(left)
    show.heading("The history, as the same reader sees it now")
    history = asker.history(id_)
    show.events(history)
    show.heading("The audit trail")
    trail = asker.trail(id_)
    show.trail(trail)
    return _remains(left, [left, history, trail], [NAME, email]) + differences(before, asker.figures())


def _remains(left: dict[str, Any], answers: list[Any], texts: list[str]) -> list[str]:
    faults = [f"{field} of the erased customer is {left[field]!r}" for field in ("name", "email", "external_id") if left[field]]
    if left["status"] != "erased":
        faults.append(f"status of the erased customer is {left['status']!r}")
    seen = json.dumps(answers, ensure_ascii=False)
    return faults + [f"{text!r} still appears in an answer" for text in texts if text in seen]
