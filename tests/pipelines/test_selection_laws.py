"""The laws of the select stage's steps: union, duplicates, near-duplicates, quota."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines.embedding.embed import write_array
from pipelines.parts import Part, array_place, write_part
from pipelines.selection.duplicates import NearDuplicates, SameFiles, collapse, similar_neighbours
from pipelines.selection.quota import Quota
from pipelines.selection.union import Union, united
from pipelines.selection.verdicts import Entry, Survivors, Verdict
from schemas.tables import EMBEDDING_METADATA, NEIGHBOURS

CLASSES = ("bird", "cat", "dog")


def entry(part: int, row: int, score: float = 0.5, digest: str = "a", **scores: float) -> Entry:
    classes = tuple(sorted(scores.items())) or (("bird", score),)
    return Entry(part, row, score, digest, f"{part}/{row}", classes)


@st.composite
def candidates(draw: st.DrawFn) -> list[Entry]:
    refs = draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=16))
    made = []
    for part, row in sorted(refs):
        classes = draw(st.sets(st.sampled_from(CLASSES), min_size=1))
        scores = {name: draw(st.sampled_from([0.1, 0.2, 0.3])) for name in classes}
        digest = draw(st.sampled_from("abcd"))
        made.append(entry(part, row, max(scores.values()), digest, **scores))
    return made


def run(made: beam.PTransform, *inputs: list[Any]) -> list[Any]:
    """What a transform makes of its inputs, in memory."""
    _FOUND.clear()
    with Pipeline() as root:
        ins = [root | f"in{n}" >> beam.Create(values) for n, values in enumerate(inputs)]
        assert_that((tuple(ins) if len(ins) > 1 else ins[0]) | made, _collect)
    return list(_FOUND)


_FOUND: list[Any] = []


def _collect(values: list[Any]) -> None:
    """By its name in this module, so that a pickled pipeline fills this very list."""
    _FOUND.extend(values)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_the_union_is_that_of_a_loop(data: st.DataObject) -> None:
    unions = []
    hits = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 5), st.floats(-1, 1, width=16), st.integers(0, 9),
                st.sampled_from([*CLASSES, None]), st.integers(0, 2),
            ),
            max_size=30,
        )
    )  # fmt: skip
    for block in range(3):
        mine = [hit for hit in hits if hit[4] == block]
        unions.append(
            Union(
                np.array([h[0] for h in mine], np.int32),
                np.array([h[1] for h in mine], np.float32),
                np.array([h[2] for h in mine], np.int32),
                [h[3] for h in mine],
            )
        )
    kept, low = united(data.draw(st.permutations(unions)), 0.25)
    good = [hit for hit in hits if hit[1] >= 0.25]
    assert [found.row for found in kept] == sorted({hit[0] for hit in good})
    assert {found.row for found in low} == {hit[0] for hit in hits} - {hit[0] for hit in good}
    for found in kept:
        mine = [hit for hit in good if hit[0] == found.row]
        assert found.score == round(max(hit[1] for hit in mine), 6)
        assert (found.rank, found.query_count) == (min(hit[2] for hit in mine), len(mine))
        best: dict[str, float] = {}
        for _, score, _, name, _ in mine:
            if name is not None:
                best[name] = max(best.get(name, -2), round(score, 6))
        assert dict(found.class_scores) == best


@settings(deadline=None, max_examples=100)
@given(candidates(), st.data())
def test_collapse_keeps_the_best_of_each_group_in_any_order(
    made: list[Entry], data: st.DataObject
) -> None:
    every = list(itertools.combinations(made, 2))
    pairs = data.draw(st.lists(st.sampled_from(every), max_size=12)) if every else []
    gone = {(part, verdict.row) for part, verdict in collapse(pairs)}
    again = data.draw(st.permutations([pair[::-1] for pair in pairs]))
    assert sorted(collapse(again), key=str) == sorted(collapse(pairs), key=str)
    # Groups as a breadth-first walk finds them.
    left = set(range(len(made)))
    while left:
        group, border = set(), {left.pop()}
        while border:
            group |= border
            ends = {made[n] for n in border}
            border = {
                made.index(other)
                for pair in pairs
                for one, other in (pair, pair[::-1])
                if one in ends
            } - group
        left -= group
        members = sorted((made[n] for n in group), key=lambda e: e.order)
        assert [(e.part, e.row) in gone for e in members] == [False] + [True] * (len(members) - 1)
    # What is left is no pair any more: collapsing it again drops nothing.
    alive = [pair for pair in pairs if not {(e.part, e.row) for e in pair} & gone]
    assert list(collapse(alive)) == []


@settings(deadline=None, max_examples=5, phases=[Phase.generate])  # a pipeline an example
@given(candidates(), st.integers(1, 3), st.randoms())
def test_the_quota_is_kept_and_used(made: list[Entry], most: int, order: random.Random) -> None:
    verdicts = run(Quota(most), made)
    shuffled = list(made)
    order.shuffle(shuffled)
    assert sorted(run(Quota(most), shuffled), key=str) == sorted(verdicts, key=str)
    gone = {(part, verdict.row) for part, verdict in verdicts}
    kept_by = Counter()
    wanted: set[tuple[int, int]] = set()
    for name in CLASSES:
        asked = [e for e in made if name in dict(e.class_scores)]
        asked.sort(key=lambda e: (-dict(e.class_scores)[name], e.part, e.row))
        wanted |= {(e.part, e.row) for e in asked[:most]}
        kept_by[name] = len(asked[:most])
    # A class has more than its quota only of pairs that another class keeps.
    assert {(e.part, e.row) for e in made} - gone == wanted
    assert len(wanted) <= sum(kept_by.values())


def metadata_part(work: Path, digests: list[str]) -> Part:
    rows = [
        {
            **{"image_path": f"{n}.jpg", "source": "ft", "source_key": f"{n}.jpg", "size": 1},
            **{"image_sha256": digest, "image_ext": "jpg", "width": 1, "height": 1},
        }
        for n, digest in enumerate(digests)
    ]
    table = pa.Table.from_pylist(rows, schema=EMBEDDING_METADATA)
    return write_part(str(work), Part("embed-finetune", 0, "ft", len(rows), "f"), table)


def test_the_same_file_stays_once_with_its_best_score(tmp_path: Path) -> None:
    own = metadata_part(tmp_path, ["x", "c"])
    made = [entry(0, 0, 0.2, "a"), entry(0, 1, 0.4, "a"), entry(1, 0, 0.4, "a")]
    made += [entry(1, 1, 0.9, "b"), entry(1, 2, 0.9, "c"), entry(2, 0, 0.1, "c")]
    wanted = [
        (0, Verdict(0, "duplicate", "is 0/1")),
        (1, Verdict(0, "duplicate", "is 0/1")),
        (1, Verdict(2, "finetune_duplicate", "is 1.jpg")),
        (2, Verdict(0, "finetune_duplicate", "is 1.jpg")),
    ]
    for order in (made, made[::-1]):
        found = run(SameFiles(str(tmp_path)), order, [own])
        assert sorted(found, key=str) == sorted(wanted, key=str)


def test_survivors_are_those_without_a_verdict() -> None:
    made = [entry(0, 0), entry(0, 1), entry(1, 0), entry(2, 7)]
    with Pipeline() as root:
        left = (
            root | "e" >> beam.Create(made),
            root | "v" >> beam.Create([(0, Verdict(1, "x", "")), (1, Verdict(5, "x", ""))]),
        ) | Survivors()
        assert_that(left, equal_to([made[0], made[2], made[3]]))


@pytest.fixture
def neighbours(tmp_path: Path) -> Part:
    """Two queries and two pool parts; rows 0 of part 0 and 1 of part 1 are almost the same."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2, 4, 64))
    vectors[1, 1] = vectors[0, 0] + 0.05 * rng.standard_normal(64)
    vectors[1, 2] = vectors[1, 1] + 0.05 * rng.standard_normal(64)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    for number, block in enumerate(vectors.astype(np.float16)):
        digest = write_array(array_place(str(tmp_path), "embed-pool", number), block)
        extra = {"npy_sha256": digest, "dimension": 64}
        part = Part("embed-pool", number, f"{number}.tar", 4, "f", extra=extra)
        write_part(str(tmp_path), part, pa.table({"x": [0] * 4}))
    hits = [(0, 0, 0), (0, 1, 1), (0, 1, 3), (1, 1, 1), (1, 1, 2), (1, 0, 3)]
    rows = [
        {"query": q, "pool_part": p, "pool_row": r, "score": 0.5, "rank": 0} for q, p, r in hits
    ]
    table = pa.Table.from_pylist(rows, schema=NEIGHBOURS)
    return write_part(str(tmp_path), Part("retrieve", 0, "ft", 2, "f"), table)


def test_near_duplicates_are_found_among_neighbours_of_one_query(
    tmp_path: Path, neighbours: Part
) -> None:
    work = str(tmp_path)
    assert sorted(similar_neighbours(neighbours, work, 0.9)) == [(0, 0, 1, 1), (1, 1, 1, 2)]
    assert list(similar_neighbours(neighbours, work, 1.0)) == []
    made = [entry(p, r, 0.1 * p + 0.01 * r, f"{p}{r}") for p in (0, 1) for r in range(4)]
    found = run(NearDuplicates(work, 0.9), made, [neighbours])
    assert sorted(found, key=str) == [
        (0, Verdict(0, "near_duplicate", "is like 1/2")),
        (1, Verdict(1, "near_duplicate", "is like 1/2")),
    ]
    # Without the picture between them, which is gone, the other two are not joined.
    left = [e for e in made if (e.part, e.row) != (1, 1)]
    assert run(NearDuplicates(work, 0.9), left, [neighbours]) == []
