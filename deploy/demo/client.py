"""The API as the demo sees it. What an answer looks like is known here and nowhere else."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from figures import Cell, Figures, Month

# CDNOW's orders, with the month after the last as the end.
FROM, TO = "1997-01-01T00:00:00Z", "1998-07-01T00:00:00Z"


class Problem(Exception):
    """An answer that is not a success: status, code and what to do about it."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        try:
            body = json.loads(text)
        except ValueError:
            body = {}
        self.status = status
        self.code = body.get("code", "")
        super().__init__(f"{method} {path} answered {status} {self.code}: {body.get('detail') or text[:500]}")


def place(token: str) -> tuple[int, int]:
    """A sequence by its incarnation and number: a later incarnation is later, whatever the number."""
    number, _, incarnation = token.partition("@")
    return int(incarnation or 1), int(number)


class Client:
    """One API key. Reads wait for the last write that any client of this process has made."""

    # As it was answered: a number, and its incarnation behind an @ once the log was restored.
    sequence = "0"

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        if query:
            path += "?" + urllib.parse.urlencode(query)
        headers = {"Authorization": f"Bearer {self.key}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        elif Client.sequence != "0":
            headers["Annals-Min-Sequence"] = Client.sequence
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                Client.sequence = max(Client.sequence, answer.headers.get("Annals-Sequence") or "0", key=place)
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Problem(method, path, error.code, error.read().decode(errors="replace")) from None

    def all(self, path: str, **query: Any) -> list[Any]:
        """A list, page by page, to its end."""
        page = self.call("GET", path, limit=100, **query)
        data = list(page["data"])
        while page.get("has_more"):
            page = self.call("GET", path, limit=100, cursor=page["next_cursor"], **query)
            data += page["data"]
        return data

    # Customers and their trail

    def customer(self, reference: str) -> dict[str, Any]:
        return self.call("GET", f"/api/v1/customers/{reference}")

    def name_customer(self, customer: str, name: str, email: str) -> dict[str, Any]:
        return self.call("PATCH", f"/api/v1/customers/{customer}", {"name": name, "email": email})

    def history(self, customer: str) -> list[dict[str, Any]]:
        return self.all(f"/api/v1/customers/{customer}/history")

    def trail(self, resource: str) -> list[dict[str, Any]]:
        return self.all("/api/v1/audit-logs", resource=resource)

    # Erasure

    def request_erasure(self, customer: str) -> str:
        return self.call("POST", "/api/v1/privacy/requests", {"customer": customer, "kind": "erasure"})["id"]

    def approve(self, request: str) -> None:
        self.call("POST", f"/api/v1/privacy/requests/{request}/approve", {})

    def await_erasure(self, request: str, seconds: float = 30) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            answer = self.call("GET", f"/api/v1/privacy/requests/{request}")
            if answer["status"] == "complete":
                return answer
            if time.monotonic() > end:
                raise SystemExit(f"the erasure {request} is still {answer['status']} after {seconds:.0f} s")
            time.sleep(0.1)

    # Reports

    def figures(self) -> Figures:
        return Figures(self._cohorts(), self._months())

    def kpis(self) -> dict[str, Any]:
        return self.call("GET", "/api/v1/analytics/kpis")

    def _cohorts(self) -> dict[tuple[str, int], Cell]:
        report = self.call(
            "POST",
            "/api/v1/analytics/cohort-analysis",
            {"metric": "retention", "interval": "month", "from": FROM, "to": TO, "time_zone": "UTC"},
        )
        cells = {}
        for cohort in report["cohorts"]:
            for cell in cohort["cells"]:
                share = cell["active"] / cohort["customers"]
                if abs(float(cell["retention"]) - share) > 0.0001:
                    raise SystemExit(
                        f"cohort {cohort['cohort']}, offset {cell['offset']}, retention: {cell['retention']}, "
                        f"but {cell['active']} of {cohort['customers']} were active"
                    )
                cells[cohort["cohort"], cell["offset"]] = Cell(
                    cohort["customers"], cell["active"], cell["orders"], _cents(cell["revenue"])
                )
        return cells

    def _months(self) -> dict[str, Month]:
        report = self.call(
            "GET", "/api/v1/analytics/revenue", **{"from": FROM, "to": TO, "interval": "month", "time_zone": "UTC"}
        )
        return {
            row["period"][:7]: Month(row["orders"], _cents([row["order_revenue"]]))
            for row in report["data"]
        }


def _cents(money: list[dict[str, Any]]) -> int:
    """Every order here is in US dollars; another currency would be a fault of ours."""
    strangers = {m["currency"] for m in money} - {"USD"}
    if strangers:
        raise SystemExit(f"a report has {', '.join(sorted(strangers))}, but every order is in USD")
    return sum(m["amount"] for m in money)
