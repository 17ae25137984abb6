"""Which index is searched: a rule from the size of the search and the memory at hand.

After faiss's guidelines (https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-
index), with two things of our own: the exact search has a rate that is worth keeping for small
pools, since its result needs no defence; and every partition of the pool is an index by itself,
so it is a partition's rows that set the number of lists and that must fit into memory.

1. ``exact`` where it takes no more than EXACT_FLOPS, or where the pool is too small to train on.
2. ``hnsw`` where there are far more queries than pool rows and its graph fits: it is the fastest
   to search and the slowest to build.
3. ``ivf-flat``, inverted lists of float16 vectors, where those fit.
4. ``ivf-pq``, inverted lists of product-quantised codes, as long as fit.

autofaiss makes the same kind of choice, but its releases need numpy below 2, which this
package's environment is not; so the rule is here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import UserError

EXACT, IVF_FLAT, IVF_PQ, HNSW, GIVEN = "exact", "ivf-flat", "ivf-pq", "hnsw", "given"
AUTO, APPROXIMATE = "auto", "approximate"

EXACT_FLOPS = 1e15
"""Floating-point operations of an exact search that is not worth avoiding: a quarter of an hour of
sixteen cores."""
_LEAST_ROWS = 100_000  # below this an index saves nothing
_TRAIN_A_LIST = 64  # rows per list to train on; faiss warns below 39
_CODE_VALUES = 256  # of each byte of a code; they are learnt like lists
_LINKS = 32  # of a node of HNSW, twice as many at the bottom
_MANY_QUERIES = 10  # times as many queries as rows: HNSW's slow building pays


@dataclass(frozen=True)
class Choice:
    """An index to build.

    Attributes:
        type: one of the names above.
        nlist: inverted lists, of the ivf types.
        code_size: bytes of a code, of ``ivf-pq``.
        links: of a node, of ``hnsw``.
        train_rows: pool rows that it is trained on.
    """

    type: str
    nlist: int = 0
    code_size: int = 0
    links: int = 0
    train_rows: int = 0

    @property
    def approximate(self) -> bool:
        """True where neighbours may be missed."""
        return self.type != EXACT

    def factory(self) -> str:
        """For faiss.index_factory."""
        if self.type == HNSW:
            return f"HNSW{self.links}_SQfp16"
        # "np": without the polysemous training, which takes minutes and which nobody here uses.
        code = "SQfp16" if self.type == IVF_FLAT else f"PQ{self.code_size}np"
        return f"IVF{self.nlist},{code}"

    def recorded(self) -> dict[str, Any]:
        """For the manifest: the type and the parameters that it has."""
        return {name: value for name, value in asdict(self).items() if value}


def choose(
    wanted: str, *, rows: int, largest: int, queries: int, dimension: int, memory: float
) -> Choice:
    """Apply the rule.

    Args:
        wanted: a type, AUTO, or APPROXIMATE: any type but EXACT.
        rows: of the pool, in all.
        largest: rows of the largest partition.
        queries: in all.
        dimension: of the vectors.
        memory: GiB that the index of one partition may take.

    Raises:
        UserError: no index of the wanted type fits into the memory, or the pool is too small.
    """
    small = rows < _LEAST_ROWS or 2.0 * rows * queries * dimension <= EXACT_FLOPS
    if wanted == EXACT or (wanted == AUTO and small):
        return Choice(EXACT)
    budget = memory * 2**30
    if wanted in (AUTO, APPROXIMATE):
        wanted = _best(largest, rows, queries, dimension, budget)
    if wanted == IVF_PQ and rows < _CODE_VALUES:
        raise UserError(
            f"--index ivf-pq needs {_CODE_VALUES} pool rows to learn its codes from, and there are "
            f"{rows}; take exact."
        )
    nlist = _lists(largest)
    train = min(rows, _TRAIN_A_LIST * nlist)
    if wanted == HNSW:
        choice = Choice(HNSW, links=_LINKS)
    elif wanted == IVF_FLAT:
        choice = Choice(IVF_FLAT, nlist=nlist, train_rows=train)
    else:
        code = _code_size(largest, nlist, dimension, budget)
        choice = Choice(
            IVF_PQ, nlist=nlist, code_size=code, train_rows=min(rows, max(train, 39 * _CODE_VALUES))
        )
    needed = index_bytes(choice, largest, dimension)
    if needed > budget:
        raise UserError(
            f"an index of type {wanted} takes {needed / 2**30:.3g} GiB for a partition of "
            f"{largest} rows, more than --index_memory {memory:g}; raise it, give a smaller "
            f"--partition_rows or another --index."
        )
    return choice


def index_bytes(choice: Choice, rows: int, dimension: int) -> int:
    """About how much memory an index of so many rows takes."""
    if choice.type == HNSW:
        return rows * (2 * dimension + 4 * (2 * choice.links + 2) + 16)
    code = 2 * dimension if choice.type == IVF_FLAT else choice.code_size
    return rows * (code + 8) + 4 * choice.nlist * dimension


def _best(largest: int, rows: int, queries: int, dimension: int, budget: float) -> str:
    many = queries >= _MANY_QUERIES * rows
    if many and index_bytes(Choice(HNSW, links=_LINKS), largest, dimension) <= budget:
        return HNSW
    flat = Choice(IVF_FLAT, nlist=_lists(largest))
    return IVF_FLAT if index_bytes(flat, largest, dimension) <= budget else IVF_PQ


def _lists(rows: int) -> int:
    """The power of two nearest to four times the root, with 39 rows a list for training."""
    lists = 1 << round(math.log2(4 * math.sqrt(max(1, rows))))
    return max(1, min(lists, rows // 39))


def _code_size(rows: int, nlist: int, dimension: int, budget: float) -> int:
    """The longest code that fits: one byte for two dimensions or more, and they divide evenly."""
    sizes = [size for size in range(1, dimension // 2 + 1) if dimension % size == 0] or [1]
    fitting = [
        size
        for size in sizes
        if index_bytes(Choice(IVF_PQ, nlist=nlist, code_size=size), rows, dimension) <= budget
    ]
    return max(fitting, default=sizes[0])
