"""The laws of cutting shards, and of the parts that stages leave."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.assembling.assemble import plan_shards
from pipelines.captioning.captioner import Decoding
from pipelines.parts import Part, finished, left_parts, part_place, read_part, write_part
from pipelines.watching.progress import Progress
from schemas.errors import UserError
from schemas.manifest import Counts
from schemas.record import TEXT_COMPENSATED


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
    assert plain.getvalue().endswith("/s, 0 s left\n")
    assert live.getvalue().startswith("\r\x1b[K")


def test_decoding_becomes_arguments_of_generate() -> None:
    assert Decoding().generate_arguments([7]) == {
        "max_new_tokens": 40,
        "num_return_sequences": 1,
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
    }
    nucleus = Decoding(mode="nucleus", top_p=0.8, captions_per_image=4, min_new_tokens=3)
    arguments = nucleus.generate_arguments([7, 8])
    assert (arguments["do_sample"], arguments["top_k"]) == (True, 0)
    assert len(arguments["logits_processor"]) == 1  # it draws, and torch has nothing left to draw
    assert (arguments["num_return_sequences"], arguments["min_new_tokens"]) == (4, 3)
