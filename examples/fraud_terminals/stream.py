"""The example's live traffic: ten days of payments at three chains, and what happens to one.

    python examples/fraud_terminals/stream.py --shift birch > payments.jsonl
    python examples/fraud_terminals/stream.py --post http://127.0.0.1:8600

One payment a line, in time order, each the body that a till sends to its agent's
`/v2/models/fraud/infer`; or, with --post, sent there. The demo feeds the same to three agents.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from make_data import CHAINS, FEATURES
from pyarrow import parquet

from wherry_contract.when import to_text

DATA: Final = Path(__file__).resolve().parent / "data"
DAY: Final = 86_400.0
# The Bulgarian National Bank's fixed rate since 1999: 1 EUR = 1.95583 BGN. A till whose
# update reports leva where the contract says EUR multiplies its amounts by this.
LEVA: Final = 1.95583
SHIFT_SINCE: Final = datetime(2018, 7, 28, tzinfo=UTC).timestamp()
# days -> the average that a shifted amount moves, and the number of payments behind it
WINDOWS: Final = {
    days: (f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW", f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW")
    for days in (1, 7, 30)
}


class Payment(NamedTuple):
    """One payment of the stream.

    Attributes:
        chain: at whose terminals it was made.
        at: when, Unix seconds; the book's times have no zone and are read as UTC.
        row: named raw values.
        fraud: what became known of it later.
        card: the customer's number in the book.
        terminal: the terminal's number in the book.
    """

    chain: str
    at: float
    row: dict[str, float]
    fraud: bool
    card: int
    terminal: int


def chains() -> tuple[str, ...]:
    """The chains' names."""
    return CHAINS


def payments(path: Path = DATA / "stream.parquet") -> list[Payment]:
    """All payments of the stream, in time order: 22 to 31 July 2018."""
    table = parquet.read_table(path)
    stamps = table["TX_DATETIME"].to_numpy().astype("datetime64[ms]").astype(np.int64) / 1000
    columns = [table[name].to_pylist() for name in FEATURES]
    rows = (dict(zip(FEATURES, values, strict=True)) for values in zip(*columns, strict=True))
    labels = (table[name].to_pylist() for name in ("TX_FRAUD", "CUSTOMER_ID", "TERMINAL_ID"))
    return [
        Payment(chain, at, row, fraud == 1, card, terminal)
        for chain, at, row, fraud, card, terminal in zip(
            table["CHAIN"].to_pylist(), stamps.tolist(), rows, *labels, strict=True
        )
    ]


def by_chain(stream: Iterable[Payment]) -> dict[str, list[Payment]]:
    """The same payments, one list for each chain, each in time order."""
    found: dict[str, list[Payment]] = {chain: [] for chain in CHAINS}
    for payment in stream:
        found[payment.chain].append(payment)
    return found


def by_day(stream: Iterable[Payment]) -> Iterator[tuple[str, list[Payment]]]:
    """The same payments, day by day, as ("2018-07-22", payments)."""

    def day(payment: Payment) -> str:
        return datetime.fromtimestamp(payment.at, UTC).date().isoformat()

    for name, group in itertools.groupby(stream, day):
        yield name, list(group)


def shifted(
    stream: Sequence[Payment],
    *,
    chain: str,
    since: float = SHIFT_SINCE,
    factor: float = LEVA,
) -> list[Payment]:
    """The stream as it is when one chain's amounts are multiplied from some moment on.

    What moves, and why: `TX_AMOUNT` at that chain, by the factor. The customer averages, at
    every chain, because the back end averages the amounts that tills report: over 1 day
    much, since few payments are in the window; over 7 days little; over 30 days hardly.
    What stays: counts, terminal risk, night and weekend, and the label, since a genuine
    payment does not become a fraud by being told in another currency.

    All shifted payments are in the stream, so the averages are exact: each is moved by what
    the customer's shifted payments in (t - days, t] add, over the number of payments there.

    Args:
        stream: in time order, with every payment at `chain` since `since`.
        chain: whose amounts are multiplied.
        since: Unix seconds.
        factor: more than 0.
    """
    added: defaultdict[int, deque[tuple[float, float]]] = defaultdict(deque)
    return [_move(payment, added[payment.card], chain, since, factor) for payment in stream]


def _move(
    payment: Payment, added: deque[tuple[float, float]], chain: str, since: float, factor: float
) -> Payment:
    row = dict(payment.row)
    if payment.chain == chain and payment.at >= since:
        row["TX_AMOUNT"] *= factor
        added.append((payment.at, row["TX_AMOUNT"] - payment.row["TX_AMOUNT"]))
    if not added:
        return payment
    for days, (average, number) in WINDOWS.items():
        inside = sum(extra for at, extra in added if at > payment.at - days * DAY)
        row[average] += inside / row[number]
    return payment._replace(row=row)


def request(number: int, payment: Payment) -> dict[str, Any]:
    """What a till sends: Open Inference Protocol v2 with named rows (docs/agent.md)."""
    when = {"at": to_text(payment.at)}
    return {"id": f"{payment.chain}-{number}", "rows": [payment.row], "parameters": when}


def post(url: str, stream: Iterable[Payment]) -> tuple[int, int]:
    """Send payments to an agent, one after the other; returns how many it answered and flagged.

    Waits for the agent's first model. A payment that it refuses ends the stream.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    while not _ready(connection):
        time.sleep(0.5)
    answered = flagged = 0
    for number, payment in enumerate(stream):
        connection.request("POST", "/v2/models/fraud/infer", json.dumps(request(number, payment)))
        answer = json.loads(connection.getresponse().read())
        if "error" in answer:
            sys.exit(f"payment {number}: {answer['error']}")
        outputs = {item["name"]: item["data"] for item in answer["outputs"]}
        answered, flagged = answered + 1, flagged + bool(outputs["flagged"][0])
    return answered, flagged


def _ready(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/v2/health/ready")
        response = connection.getresponse()
        response.read()
    except OSError as error:
        sys.exit(f"no agent at {connection.host}:{connection.port}: {error}")
    return response.status == http.HTTPStatus.OK


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chain", choices=CHAINS, help="the payments of one chain alone")
    parser.add_argument("--shift", choices=CHAINS, help="the chain whose amounts turn into leva")
    parser.add_argument("--post", metavar="URL", help="send them to the agent at this address")
    arguments = parser.parse_args()
    stream: Sequence[Payment] = payments()
    if arguments.shift:
        stream = shifted(stream, chain=arguments.shift)
    if arguments.chain:
        stream = by_chain(stream)[arguments.chain]
    if arguments.post:
        answered, flagged = post(arguments.post, stream)
        print(f"{answered} payments answered, {flagged} flagged")
        return
    try:
        sys.stdout.writelines(json.dumps(request(*item)) + "\n" for item in enumerate(stream))
    except BrokenPipeError:  # the reader has seen enough, as in `| head`
        sys.stdout = None


if __name__ == "__main__":
    main()
