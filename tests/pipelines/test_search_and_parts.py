"""The laws of retrieval, of cutting shards, and of the parts that stages leave."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.assembling.assemble import plan_shards
from pipelines.captioning.captioner import Decoding
from pipelines.parts import Part, finished, left_parts, part_place, read_part, write_part
from pipelines.retrieval.retrieve import Hits, MergeHits
from pipelines.retrieval.search import nearest
from pipelines.watching.progress import Progress
from schemas.errors import UserError
from schemas.manifest import Counts
from schemas.record import TEXT_COMPENSATED


def unit_rows(number: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Rows as the embed stage stores them: of unit length, then rounded to float16."""
    rows = np.random.default_rng(seed).standard_normal((number, dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32)


def brute_force(
    queries: NDArray[np.float32], pool: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scores = (queries.astype(np.float64) @ pool.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@st.composite
def searches(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    dimension = draw(st.sampled_from([1, 3, 16, 65]))
    seed = draw(st.integers(0, 10**6))
    pool = unit_rows(draw(st.integers(1, 40)), dimension, seed)
    # Many equal rows: ties are the rule in a pool that was scraped.
    pool = pool[np.random.default_rng(seed).integers(0, len(pool), draw(st.integers(1, 400)))]
    queries = unit_rows(draw(st.integers(1, 5)), dimension, seed + 1)
    if draw(st.booleans()):
        queries = np.concatenate([queries, pool[:2]])
    return queries, pool, draw(st.integers(1, 50))


@settings(deadline=None, max_examples=80)
@given(searches())
def test_the_nearest_are_those_of_brute_force(
    search: tuple[NDArray[np.float32], NDArray[np.float32], int],
) -> None:
    queries, pool, k = search
    scores, rows = nearest(queries, pool, k)
    wanted_scores, wanted_rows = brute_force(queries, pool, k)
    assert np.array_equal(rows, wanted_rows)
    assert np.array_equal(scores, wanted_scores)


@settings(deadline=None, max_examples=80)
@given(searches(), st.data())
def test_by_blocks_is_at_once_in_whatever_order(
    search: tuple[NDArray[np.float32], NDArray[np.float32], int], data: st.DataObject
) -> None:
    queries, pool, k = search
    cuts = sorted(data.draw(st.sets(st.integers(1, len(pool)), max_size=5)))
    starts = [0, *[cut for cut in cuts if cut < len(pool)]]
    blocks = []
    for part, start in enumerate(starts):
        stop = starts[part + 1] if part + 1 < len(starts) else len(pool)
        score, row = nearest(queries, pool[start:stop], k)
        blocks.append(Hits(score, np.full_like(row, part), row))
    combine = MergeHits(k)
    trees = data.draw(st.permutations(blocks))
    half = len(trees) // 2
    left = combine.create_accumulator()
    for block in trees[:half]:
        left = combine.add_input(left, block)
    right = combine.merge_accumulators([combine.create_accumulator(), *trees[half:]])
    found = combine.extract_output(combine.merge_accumulators([left, right]))
    scores, rows = brute_force(queries, pool, k)
    assert np.array_equal(found.score, scores)
    assert np.array_equal(np.array(starts)[found.part] + found.row, rows)


def test_no_queries_find_nothing() -> None:
    scores, rows = nearest(np.zeros((0, 8), np.float32), unit_rows(5, 8, 0), 3)
    assert scores.shape == rows.shape == (0, 3)


def part(number: int, rows: int = 0, name: str | None = None, **extra: object) -> Part:
    counts = Counts(read=rows + 1, kept=rows, dropped={"x": 1})
    model = {"name": "m", "weights_sha256": "a"}
    examples = [("key", "x", "why")]
    return Part(
        "caption", number, name or f"u{number}", rows, "f", "g", counts, model, examples, extra
    )


@given(st.lists(st.integers(0, 9)), st.integers(1, 7), st.randoms())
def test_shards_hold_every_candidate_once_and_in_order(
    rows: list[int], size: int, random: object
) -> None:
    parts = [part(number, n) for number, n in enumerate(rows)]
    plans = plan_shards(TEXT_COMPENSATED, parts, size)
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert plan_shards(TEXT_COMPENSATED, parts, size) == plans
    flat = [
        (n, row) for plan in plans for n, start, stop in plan.slices for row in range(start, stop)
    ]
    assert flat == [(n, row) for n, total in enumerate(rows) for row in range(total)]
    sizes = [sum(stop - start for _, start, stop in plan.slices) for plan in plans]
    assert all(n == size for n in sizes[:-1])
    assert [plan.number for plan in plans] == list(range(len(plans)))


def test_a_part_survives_its_file(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    written = write_part(str(tmp_path), part(3, 2, options={"k": 1}), table)
    assert read_part(str(tmp_path), "caption", 3) == written
    assert finished(str(tmp_path), "caption", 3, "f") == written
    assert finished(str(tmp_path), "caption", 3, "other") is None
    assert read_part(str(tmp_path), "caption", 4) is None
    place = Path(part_place(str(tmp_path), "caption", 3))
    for broken in (b"", b"PAR1", place.read_bytes()[:-20]):
        place.write_bytes(broken)
        assert read_part(str(tmp_path), "caption", 3) is None


def test_parts_of_two_models_do_not_mix(tmp_path: Path) -> None:
    work, table = str(tmp_path), pa.table({"a": [1]})
    for number, digest in enumerate("ab"):
        made = part(number)
        made = Part(**(vars(made) | {"model": {"name": "m", "weights_sha256": digest}}))
        write_part(work, made, table)
    assert len(left_parts(work, "caption", ["u0"], {})) == 1
    with pytest.raises(UserError, match="are of different models: run the caption stage again"):
        left_parts(work, "caption", ["u0", "u1"], {})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_counts_what_is_there_and_redraws_on_a_terminal(tmp_path: Path) -> None:
    plain, live = io.StringIO(), Terminal()
    for out in (plain, live):
        with Progress(str(tmp_path), {"caption": 2}, out):
            write_part(str(tmp_path), part(0, 1200), pa.table({"a": [1]}))
        (tmp_path / "caption" / "00000.parquet").unlink()
    assert plain.getvalue().startswith("caption 1/2 parts, 1,201 read, 1 dropped, ")
    assert plain.getvalue().endswith("/s\n")
    assert live.getvalue().startswith("\r\x1b[K")


def test_decoding_becomes_arguments_of_generate() -> None:
    assert Decoding().generate_arguments() == {
        "max_new_tokens": 40,
        "num_return_sequences": 1,
        "do_sample": False,
        "num_beams": 1,
    }
    nucleus = Decoding(mode="nucleus", top_p=0.8, captions_per_image=4, min_new_tokens=3)
    arguments = nucleus.generate_arguments()
    assert (arguments["do_sample"], arguments["top_p"], arguments["top_k"]) == (True, 0.8, 0)
    assert (arguments["num_return_sequences"], arguments["min_new_tokens"]) == (4, 3)
