"""Recall of the approximate index that the rule chooses, against exact search, on a million rows.

    python -m benchmarks.recall

The retrieve stage runs as in a build, over embed parts of synthetic, clustered vectors. Recall is
then measured again, over all queries rather than a sample, against one search of faiss's
IndexFlatIP, which shares no code with ours.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.contest import conditions, parser, report
from benchmarks.vectors import clustered, no_screen, write_embeddings
from pipelines.embedding.embed import FINETUNE, POOL
from pipelines.parts import Part, read_table, required_part
from pipelines.retrieval.options import INDEXES, RetrieveConfig
from pipelines.retrieval.retrieve import Retrieve, index_info
from pipelines.retrieval.rule import APPROXIMATE

PER_PART = 10_000


def retrieve(
    work: str,
    queries: list[Part],
    pool: list[Part],
    screened: list[Part],
    config: RetrieveConfig,
    *,
    force: bool = False,
) -> None:
    """Run the retrieve stage in a pipeline of its own."""
    step = Retrieve(work=work, config=config, screen=no_screen(), force=force)
    with beam.Pipeline() as root:
        lists = tuple(
            root | name >> beam.Create([parts])
            for name, parts in (("queries", queries), ("pool", pool), ("screened", screened))
        )
        lists | step


def found_rows(work: str, queries: list[Part], per_part: int, k: int) -> NDArray[np.int64]:
    """The neighbours' rows over the whole pool, [N, k]; -1 where there are fewer."""
    found = []
    for part in queries:
        table = read_table(work, required_part(work, "retrieve", part.number))
        rows = np.full((part.rows, k), -1, np.int64)
        at = (table["query"].to_numpy(), table["rank"].to_numpy())
        rows[at] = table["pool_part"].to_numpy().astype(np.int64) * per_part
        rows[at] += table["pool_row"].to_numpy()
        found.append(rows)
    return np.concatenate(found)


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The share of the exact neighbours that were found."""
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)])
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("recall of the rule's index", samples=1_000_000, rounds=None)
    options.add_argument("--queries", type=int, default=20_000, help="(%(default)s)")
    options.add_argument("--dimension", type=int, default=64, help="(%(default)s)")
    options.add_argument("--k", type=int, default=10, help="neighbours (%(default)s)")
    options.add_argument("--index", choices=INDEXES[2:], nargs="+", default=[APPROXIMATE])
    options.add_argument("--index_memory", type=float, default=2.0, help="GiB (%(default)s)")
    options.add_argument("--partition_rows", type=int, default=1_000_000, help="(%(default)s)")
    arguments = options.parse_args(argv)
    vectors = clustered(arguments.samples, arguments.dimension, seed=0)
    asked = clustered(arguments.queries, arguments.dimension, seed=1)
    flat = faiss.IndexFlatIP(arguments.dimension)
    flat.add(vectors)
    exact = flat.search(asked, arguments.k)[1]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        pool, screened = write_embeddings(work, POOL, vectors, PER_PART)
        queries, _ = write_embeddings(work, FINETUNE, asked, PER_PART)
        for index in arguments.index:
            config = RetrieveConfig(
                arguments.k,
                index,
                arguments.index_memory,
                partition_rows=arguments.partition_rows,
            )
            began = time.perf_counter()
            retrieve(work, queries, pool, screened, config)
            seconds = time.perf_counter() - began
            found = found_rows(work, queries, PER_PART, arguments.k)
            results[index] = {
                "reported": index_info(work, arguments.k),
                "recall": round(recall(found, exact), 6),
                "seconds": round(seconds, 1),
            }
    body = {
        "conditions": conditions(
            samples=arguments.samples,
            queries=arguments.queries,
            dimension=arguments.dimension,
            faiss=faiss.__version__,
            k=arguments.k,
            partition_rows=arguments.partition_rows,
        ),
        "results": results,
    }
    rows = [
        (
            f"{index}: {figures['reported']['type']}",
            f"{figures['reported']['probe']}",
            f"{figures['reported']['candidates']}",
            f"{figures['reported']['recall']:.4f}",
            f"{figures['recall']:.4f}",
            f"{figures['seconds']:.0f}",
        )
        for index, figures in results.items()
    ]
    head = ("index", "effort", "candidates", "recall reported", "of all queries", "seconds")
    report(body, head, rows, arguments.output)


if __name__ == "__main__":
    main()
