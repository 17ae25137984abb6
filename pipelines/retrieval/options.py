"""Options of the retrieve stage."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from pipelines.flags import add, at_least
from pipelines.retrieval.rule import APPROXIMATE, AUTO, EXACT, GIVEN, HNSW, IVF_FLAT, IVF_PQ
from schemas.errors import UserError

INDEXES = (AUTO, EXACT, APPROXIMATE, IVF_FLAT, IVF_PQ, HNSW)
INDEX_MEMORY = 2.0
MIN_RECALL = 0.95


@dataclass(frozen=True)
class RetrieveConfig:
    """How neighbours are searched.

    Attributes:
        k: neighbours per query.
        index: one of INDEXES, or GIVEN: the file of ``pool_index``.
        index_memory: GiB that the index of one partition may take.
        min_recall: least share of the exact neighbours that an approximate index must find.
        partition_rows: pool rows that one task of the search holds.
        query_rows: queries that one task of the search holds.
        pool_index: a faiss index that exists already.
    """

    k: int
    index: str = AUTO
    index_memory: float = INDEX_MEMORY
    min_recall: float = MIN_RECALL
    partition_rows: int = 1_000_000
    query_rows: int = 65_536
    pool_index: str | None = None

    def recorded(self) -> dict[str, Any]:
        """For the manifest; partitions are part of an index, but not of an exact search."""
        kept: dict[str, Any] = {"k": self.k, "index": self.index}
        if self.index != EXACT:
            kept["min_recall"] = self.min_recall
        if self.index not in (EXACT, GIVEN):
            kept |= {"index_memory": self.index_memory, "partition_rows": self.partition_rows}
        return kept


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add(
        parser,
        "k",
        type=int,
        default=10,
        help="neighbours retrieved per finetune image (default: %(default)s)",
    )
    add(
        parser,
        "index",
        choices=INDEXES,
        help="how the pool is searched: exact; an approximate index of one type; approximate, the "
        "type by rule; or auto, exact where that is quick, else approximate (default: auto)",
    )
    add(
        parser,
        "index_memory",
        type=float,
        help="GiB that the index of one partition of the pool may take in a worker's memory; the "
        f"rule goes by it (default: {INDEX_MEMORY:g})",
    )
    add(
        parser,
        "min_recall",
        type=float,
        help="least share of the exact neighbours that an approximate index must find, measured "
        f"on a sample of the queries (default: {MIN_RECALL:g})",
    )
    add(
        parser,
        "pool_index",
        help="search this faiss index (autofaiss's or clip-retrieval's image.index) of the pool's "
        "embeddings, in their order, instead of building one; read only what you trust",
    )
    add(
        parser,
        "partition_rows",
        type=int,
        default=1_000_000,
        help="pool rows that one task of the search holds (default: %(default)s)",
    )
    add(
        parser,
        "query_rows",
        type=int,
        default=65_536,
        help="finetune images that one task of the search holds (default: %(default)s)",
    )


def refuse_any(o: argparse.Namespace) -> None:
    """Refuse options of a search where nothing is retrieved; ``k`` has a value in any case.

    Raises:
        UserError: one was given.
    """
    for name in ("index", "index_memory", "min_recall", "pool_index"):
        if getattr(o, name) is not None:
            raise UserError(
                f"--{name} is given, but --kinds leaves image-text pairs out; drop one."
            )


def resolve(o: argparse.Namespace) -> RetrieveConfig:
    """Check the options.

    Raises:
        UserError: a value is out of range, or belongs to another kind of search.
    """
    at_least(o, 1, "k", "partition_rows", "query_rows")
    if o.pool_index is not None and o.index is not None:
        raise UserError(
            "--index chooses what is built, --pool_index names what is there; drop one."
        )
    index = GIVEN if o.pool_index is not None else o.index or AUTO
    if o.index_memory is not None and index in (EXACT, GIVEN):
        raise UserError("--index_memory is for an index that is built here; drop it.")
    if o.min_recall is not None and index == EXACT:
        raise UserError("--min_recall is given, but --index exact finds everything; drop one.")
    memory = INDEX_MEMORY if o.index_memory is None else o.index_memory
    recall = MIN_RECALL if o.min_recall is None else o.min_recall
    if not memory > 0:
        raise UserError(f"--index_memory is {memory:g}; it is a number of GiB above 0.")
    if not 0 < recall <= 1:
        raise UserError(f"--min_recall is {recall:g}; it lies above 0 and is at most 1.")
    return RetrieveConfig(o.k, index, memory, recall, o.partition_rows, o.query_rows, o.pool_index)
