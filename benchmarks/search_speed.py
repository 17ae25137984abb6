"""Our exact search by blocks against one search of faiss's IndexFlatIP over the same matrices.

    python -m benchmarks.search_speed

faiss has queries and pool in memory as float32. Ours reads the pool's float16 .npy from the work
folder (from a warm page cache), block by block, and decides by float64 scores. Both find the same
neighbours, which is checked: where they differ, float32 could not tell the two apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import faiss
import numpy as np

from benchmarks.contest import FIGURES, conditions, contest, figures, parser, report
from benchmarks.vectors import clustered, write_embeddings
from pipelines.embedding.embed import POOL
from pipelines.retrieval.partitions import Partition
from pipelines.retrieval.search import nearest

PER_PART = 10_000


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("exact search by blocks against IndexFlatIP", samples=400_000, rounds=3)
    options.add_argument("--queries", type=int, default=8192, help="(%(default)s)")
    options.add_argument("--dimension", type=int, default=512, help="(%(default)s)")
    options.add_argument("--k", type=int, default=10, help="neighbours (%(default)s)")
    arguments = options.parse_args(argv)
    dimension, k = arguments.dimension, arguments.k
    pool = clustered(arguments.samples, dimension, seed=0)
    queries = clustered(arguments.queries, dimension, seed=1)
    index = faiss.IndexFlatIP(dimension)
    index.add(pool)
    with tempfile.TemporaryDirectory() as work:
        parts, _ = write_embeddings(work, POOL, pool, PER_PART)

        def ours() -> tuple[np.ndarray, np.ndarray]:
            hits = nearest(queries, Partition(work, parts).blocks(), k)
            return hits.score, hits.part.astype(np.int64) * PER_PART + hits.row

        scores, found = ours()
        their_scores, theirs = index.search(queries, k)
        differ = found != theirs
        error = dimension * 2.0**-24 * 1.01 + 2.0**-22
        assert np.abs(scores - their_scores).max() <= error, "float32 does not explain this"
        results = {
            "exact search": contest(ours, lambda: index.search(queries, k), arguments.rounds)
            | {"places_differ": int(differ.sum())}
        }
    body = {
        "conditions": conditions(
            samples=arguments.samples,
            queries=arguments.queries,
            dimension=dimension,
            faiss=faiss.__version__,
            k=k,
            rounds=arguments.rounds,
        ),
        "results": results,
    }
    report(body, ("faiss's time / ours", *FIGURES), figures(results), arguments.output)


if __name__ == "__main__":
    main()
