"""What the retrieve stage has to do: checked, cut into tasks, and told apart from what is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.parts import Part, fingerprint, finished
from pipelines.retrieval.given import check_given
from pipelines.retrieval.options import RetrieveConfig
from pipelines.retrieval.partitions import Group, grouped, vectors_fingerprint
from pipelines.retrieval.rule import GIVEN, Choice, choose
from schemas.errors import UserError
from shards import places

STAGE = "retrieve"
HITS_STAGE = "retrieve-hits"
_EXACT = {"type": "exact", "metric": "cosine", "storage": "float16"}


@dataclass(frozen=True)
class Plan:
    """The search, as every worker gets it.

    Attributes:
        config: how to search.
        options: those of the build that shape a part.
        force: redo what is finished.
        choice: what is searched; its type GIVEN where the user's own index is.
        pool: all embed parts of the pool.
        partitions: of the pool.
        groups: of the queries.
        empty: query parts without a query.
        finished: parts of neighbours that an earlier run has left.
        wanted: per query part, the fingerprint of its neighbours.
        tuned: fingerprint of the index and of how hard it is searched; None for an exact search.
    """

    config: RetrieveConfig
    options: dict[str, Any]
    force: bool
    choice: Choice
    pool: list[Part]
    partitions: list[Group]
    groups: list[Group]
    empty: list[Part]
    finished: list[Part]
    wanted: dict[int, str]
    tuned: str

    @property
    def todo(self) -> list[int]:
        """Groups with a query part that is not finished."""
        done = {part.number for part in self.finished}
        return [g.number for g in self.groups if any(p.number not in done for p in g.parts)]

    @property
    def searched(self) -> list[Group]:
        """What one task searches: a partition, or all of them where one index holds all."""
        if self.choice.type != GIVEN:
            return self.partitions
        parts = [part for group in self.partitions for part in group.parts]
        rows = sum(group.rows for group in self.partitions)
        return [Group(0, parts, rows, fingerprint([g.fingerprint for g in self.partitions]))]

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """Pairs of a number in ``searched`` and one of a group."""
        return [(p.number, g) for p in self.searched for g in self.todo]


def make_plan(
    pool: list[Part],
    queries: list[Part],
    screened: list[Part],
    *,
    work: str,
    config: RetrieveConfig,
    options: dict[str, Any],
    force: bool,
) -> Plan:
    """Check that the search makes sense, choose the index, and leave out what is done.

    Raises:
        UserError: k exceeds the pool, the dimensions differ, the encoders do, no index fits into
            the memory, or the given one is of other embeddings.
    """
    rows = sum(part.rows for part in screened)
    if config.k > rows:
        raise UserError(
            f"--k {config.k} is larger than the pool, which has {rows} usable pairs; give a "
            f"smaller --k or a larger --pool."
        )
    if not any(part.rows for part in queries):
        raise UserError("no finetune image could be embedded, so there is nothing to retrieve for.")
    dimension = _one_model([part for part in pool + queries if part.rows])
    partitions = grouped(pool, screened, config.partition_rows)
    groups = grouped(queries, None, config.query_rows)
    made_of: list[Any] = [vectors_fingerprint(p, s) for p, s in zip(pool, screened, strict=True)]
    if config.index == GIVEN:
        assert config.pool_index is not None
        check_given(config.pool_index, pool, dimension)
        choice = Choice(GIVEN)
        made_of = [made_of, places.content_fingerprint(config.pool_index)]
    else:
        choice = choose(
            config.index,
            rows=rows,
            largest=max(group.rows for group in partitions),
            queries=sum(group.rows for group in groups),
            dimension=dimension,
            memory=config.index_memory,
        )
    how: Any = _EXACT
    if choice.approximate:
        asked = [group.fingerprint for group in groups]
        cut = [group.fingerprint for group in partitions]
        how = fingerprint(choice.recorded(), cut, asked, config.min_recall)
    tuned = fingerprint("tuned", made_of, config.k, how)
    wanted = {
        q.number: fingerprint(STAGE, q.fingerprint, q.extra["npy_sha256"], made_of, config.k, how)
        for q in queries
    }
    done = [
        part
        for q in queries
        if not force and (part := finished(work, STAGE, q.number, wanted[q.number]))
    ]
    empty = [part for part in queries if not part.rows]
    return Plan(
        config, options, force, choice, pool, partitions, groups, empty, done, wanted, tuned
    )


def _one_model(parts: list[Part]) -> int:
    """The dimension that all parts have.

    Raises:
        UserError: they are of different models.
    """
    for what, values in (
        ("dimensions", {part.extra["dimension"] for part in parts}),
        ("encoders", {part.model["weights_sha256"] for part in parts if part.model}),
    ):
        if len(values) > 1:
            raise UserError(
                f"the embeddings of finetune set and pool are of different {what}; run the embed "
                f"stage again for both with one --encoder."
            )
    return int(parts[0].extra["dimension"])
