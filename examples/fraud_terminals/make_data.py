"""Make the files in data/ anew from the payments of the Fraud Detection Handbook.

    python examples/fraud_terminals/make_data.py --shared DIR

DIR holds `payments/fdh_transactions_2018-04_2018-07.parquet` and
`payments/fdh_features_2018-07.parquet` (data/PROVENANCE.md). The same pyarrow writes the
same bytes; another version writes the same rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

HERE: Final = Path(__file__).resolve().parent
FIRST_DAY: Final = 91  # 1 July 2018, in days since 1 April
TRAIN: Final = range(1, 8)  # days of July
DELAY: Final = range(8, 15)  # until frauds of the training week are known to be frauds
TEST: Final = range(15, 22)
STREAM: Final = range(22, 32)
# every twentieth terminal belongs to one chain: 500 terminals each, all over the town
CHAINS: Final = ("amber", "birch", "coral")
CHAIN_STEP: Final = 20

FEATURES: Final = (
    "TX_AMOUNT",
    "TX_DURING_WEEKEND",
    "TX_DURING_NIGHT",
    "CUSTOMER_ID_NB_TX_1DAY_WINDOW",
    "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW",
    "CUSTOMER_ID_NB_TX_7DAY_WINDOW",
    "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW",
    "CUSTOMER_ID_NB_TX_30DAY_WINDOW",
    "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW",
    "TERMINAL_ID_NB_TX_1DAY_WINDOW",
    "TERMINAL_ID_RISK_1DAY_WINDOW",
    "TERMINAL_ID_NB_TX_7DAY_WINDOW",
    "TERMINAL_ID_RISK_7DAY_WINDOW",
    "TERMINAL_ID_NB_TX_30DAY_WINDOW",
    "TERMINAL_ID_RISK_30DAY_WINDOW",
)
KEYS: Final = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID")
LABELS: Final = ("TX_FRAUD", "TX_FRAUD_SCENARIO")
# averages and amounts hardly repeat: their bytes pack better apart than in a dictionary
_SPLIT: Final = tuple(name for name in FEATURES if "AMOUNT" in name)


def july(shared: Path) -> pa.Table:
    """Every payment of July 2018 with its features, in order of its id, which is time order."""
    folder = shared / "payments"
    first = pa.scalar(FIRST_DAY, pa.int16())
    payments = parquet.read_table(folder / "fdh_transactions_2018-04_2018-07.parquet")
    payments = payments.filter(pc.greater_equal(payments["TX_TIME_DAYS"], first))
    features = parquet.read_table(folder / "fdh_features_2018-07.parquet")
    payments, features = payments.sort_by("TRANSACTION_ID"), features.sort_by("TRANSACTION_ID")
    if payments["TRANSACTION_ID"].combine_chunks() != features["TRANSACTION_ID"].combine_chunks():
        raise SystemExit("payments and features are not about the same transactions")
    columns = {
        name: payments[name] if name in payments.column_names else features[name]
        for name in (*KEYS, *FEATURES, *LABELS)
    }
    return pa.table(columns)


def days(table: pa.Table) -> Any:
    """The day of July of each row: int64, shape (rows,)."""
    return pc.day(table["TX_DATETIME"]).to_numpy()


def part(table: pa.Table, span: range) -> pa.Table:
    """The rows of some days."""
    return table.filter(pa.array(np.isin(days(table), span)))


def tested(table: pa.Table) -> pa.Table:
    """The test week without the cards that are known by then to be defrauded.

    The book's rule (chapter 3, `get_train_test_set`): a fraud is known seven days later, so
    day d of the test is rid of the cards that were defrauded in the training week or in the
    delay week up to day d - 8. Such cards are blocked; finding them again is no merit.
    """
    day, card = days(table), table["CUSTOMER_ID"].to_numpy()
    fraud = table["TX_FRAUD"].to_numpy() == 1
    keep = np.zeros(len(day), bool)
    for today in TEST:
        known = card[fraud & (day <= today - len(DELAY) - 1)]
        keep |= (day == today) & ~np.isin(card, known)
    return table.filter(pa.array(keep))


def delayed(table: pa.Table) -> pa.Table:
    """The frauds of the delay week: what the rule above is made from."""
    found = part(table, DELAY)
    found = found.filter(pc.equal(found["TX_FRAUD"], pa.scalar(1, pa.int8())))
    return found.select([*KEYS, *LABELS])


def streamed(table: pa.Table) -> pa.Table:
    """The last ten days at the terminals of three chains, with the chain's name."""
    found = part(table, STREAM)
    place = found["TERMINAL_ID"].to_numpy() % CHAIN_STEP
    found = found.filter(pa.array(place < len(CHAINS)))
    codes = pa.array(place[place < len(CHAINS)].astype(np.int8))
    names = pa.DictionaryArray.from_arrays(codes, pa.array(CHAINS)).cast(pa.string())
    return found.append_column("CHAIN", names)


def write(table: pa.Table, path: Path) -> None:
    """Write Parquet whose bytes depend on the rows and on pyarrow's version alone."""
    split = [name for name in _SPLIT if name in table.column_names]
    parquet.write_table(
        table.replace_schema_metadata(None),
        path,
        version="2.6",
        data_page_version="1.0",
        row_group_size=2**20,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table.column_names if name not in split],
        use_byte_stream_split=split,
        write_statistics=False,
        store_schema=False,
    )


def make(shared: Path, out: Path) -> list[Path]:
    """Write all files and return their paths."""
    table = july(shared)
    files = {
        "train.parquet": part(table, TRAIN),
        "delay_frauds.parquet": delayed(table),
        "test.parquet": tested(table),
        "stream.parquet": streamed(table),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write(rows, out / name)
    return [out / name for name in files]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="the folder above payments/")
    parser.add_argument("--out", type=Path, default=HERE / "data")
    arguments = parser.parse_args()
    for path in make(arguments.shared, arguments.out):
        rows = parquet.read_metadata(path).num_rows
        print(f"{path.name:22} {rows:7,} rows {path.stat().st_size:10,} bytes")


if __name__ == "__main__":
    main()
