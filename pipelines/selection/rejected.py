"""What was left out, written down with the reason: ``WORK/rejected/STAGE-NUMBER.parquet``.

    python -m pipelines.selection.rejected WORK [--reason REASON] [--limit N]

counts the reasons and shows a few pairs of each. Any parquet reader opens the files.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.parts import read_parquet
from schemas.errors import BadSample, UserError
from schemas.tables import REJECTED
from shards import places

FOLDER = "rejected"


def rejected_row(
    stage: str, pair: dict[str, Any], problem: BadSample, score: float | None = None
) -> dict[str, Any]:
    """A row of schemas.tables.REJECTED; ``pair`` has the columns of a pool part."""
    about = {name: pair.get(name) for name in ("source", "source_key", "url", "caption")}
    why = {"stage": stage, "reason": problem.reason, "detail": problem.detail, "score": score}
    return about | why


def rejected_place(work: str, stage: str, number: int) -> str:
    """Where the rejected pairs of a part lie."""
    return places.join(work, FOLDER, f"{stage}-{number:05d}.parquet")


def write_rejected(work: str, stage: str, number: int, rows: list[dict[str, Any]]) -> None:
    """Write the rejected pairs of a part, before the part; a part without any has a file too."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTED), sink, compression="zstd")
    places.write_bytes(rejected_place(work, stage, number), sink.getvalue().to_pybytes())


def read_rejected(work: str) -> Iterator[pa.Table]:
    """The rejected pairs of a work folder, a table (schemas.tables.REJECTED) per part.

    Raises:
        UserError: there are none.
    """
    folder = places.join(work, FOLDER)
    names = places.list_folder(folder)[1] if places.exists(folder) else []
    if not names:
        raise UserError(f"{folder!r} holds no rejected pairs; name the work folder of a build.")
    for name in names:
        yield read_parquet(places.join(folder, name))


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was rejected, by reason; 2 where there is nothing to look at."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.selection.rejected",
        description="Look at the pairs that a build left out.",
    )
    parser.add_argument("work", help="the work folder of a build (OUTPUT.work)")
    parser.add_argument("--reason", help="only this reason (default: all)")
    parser.add_argument("--limit", type=int, default=5, help="pairs a reason (default: 5)")
    arguments = parser.parse_args(argv)
    numbers: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    try:
        for table in read_rejected(arguments.work):
            for row in table.to_pylist():
                reason = f"{row['stage']}/{row['reason']}"
                if arguments.reason in (None, row["reason"]):
                    numbers[reason] += 1
                    if numbers[reason] <= arguments.limit:
                        examples.setdefault(reason, []).append(row)
    except UserError as error:
        print(f"rejected: error: {error}", file=sys.stderr)
        return 2
    for reason, number in numbers.most_common():
        print(f"{reason}: {number:,}")
        for row in examples.get(reason, []):
            caption = " ".join((row["caption"] or "").split())[:60]
            print(f"  {row['source']} {row['source_key']}: {row['detail']} | {caption}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
