"""The screen: each rule with its reason, columns that are not there, and what is written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.options import parse
from pipelines.parts import Part, write_part
from pipelines.selection import rejected
from pipelines.selection.boilerplate import boilerplate
from pipelines.selection.options import ScreenConfig
from pipelines.selection.rules import judge
from pipelines.selection.screen import kept_rows, screen_part
from schemas.errors import UserError
from schemas.manifest import Counts
from schemas.tables import EMBEDDING_METADATA, REJECTED

BASE = ["--finetune", "in", "--pool", "pool", "--output", "out"]
PAIR: dict[str, Any] = {
    "image_path": "0.tar#0",
    "caption": "a red bird on a branch",
    "source": "0.tar",
    "source_key": "0",
    "offset": 0,
    "size": 1,
    "image_sha256": "0" * 64,
    "image_ext": "jpg",
    "width": 300,
    "height": 200,
    "url": "https://example.org/0.jpg",
    "license": "cc-by-2.0",
    "nsfw": "UNLIKELY",
    "punsafe": 0.1,
    "pwatermark": 0.2,
    "similarity": 0.3,
    "language": "en",
}


def screening(*options: str) -> ScreenConfig:
    return parse([*BASE, *options])[0].screen


def reason(config: ScreenConfig, **values: Any) -> str | None:
    problem, _ = judge(PAIR | values, config)
    return problem.reason if problem else None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("IMG_1234", "camera counter"),
        ("DSC0001", "camera counter"),
        ("DSC_0001 (2)", "camera counter"),
        ("P1010001", "camera counter"),
        ("IMG-20190101-WA0001", "camera counter"),
        ("Screenshot 2020-01-01 at 10.11.12", "camera counter"),
        ("PXL_20230401_101112345", "camera counter"),
        ("photo 12", "camera counter"),
        ("IMG_1234.jpg", "file name"),
        ("IMG 1234.JPG", "file name"),
        ("red-shoe.png", "file name"),
        ("http://a.b/c.jpg", "address"),
        ("www.example.com", "address"),
        ("image", "placeholder"),
        ("Untitled", "placeholder"),
        ("untitled-12", "placeholder"),
        ("Image not available.", "placeholder"),
        ("[click here]", "placeholder"),
        ("deadbeef01234", "identifier"),
        ("550e8400-e29b-41d4-a716-446655440000", "identifier"),
        ("<b>hot</b> deals<br/>", "html"),
        ("&nbsp;", "no letters"),
        ("100_0001", "no letters"),
        ("...", "no letters"),
        ("summer holiday 2014.jpg", None),
        ("photo of a cat", None),
        ("Image of example.com's office", None),
        ("a logo of Apple", None),
        ("facade", None),
        ("decade", None),
        ("猫", None),
        ("défilé", None),
        ("I <3 you", None),
        ("a < b > c", None),
        ("product no. 1234", None),
        ("Node.js", None),
        ("Mr. Smith", None),
    ],
)
def test_boilerplate_is_what_says_nothing(text: str, kind: str | None) -> None:
    assert boilerplate(text) == kind


@given(st.text(max_size=80))
def test_boilerplate_takes_any_text(text: str) -> None:
    assert boilerplate(" ".join(text.split())) in {
        *[None, "html", "no letters", "placeholder", "address"],
        *["file name", "identifier", "camera counter"],
    }


@pytest.mark.parametrize(
    ("options", "values", "wanted"),
    [
        ([], {}, None),
        ([], {"caption": " \n\0 "}, "empty_text"),
        ([], {"caption": None}, "empty_text"),
        ([], {"caption": "IMG_1234.jpg"}, None),
        (["--drop_boilerplate"], {"caption": "IMG_1234.jpg"}, "boilerplate"),
        (["--min_text_words", "3"], {"caption": "two words"}, "short_text"),
        (["--min_text_words", "2"], {"caption": "two words"}, None),
        (["--min_text_chars", "10"], {"caption": "two words"}, "short_text"),
        (["--max_text_words", "2"], {"caption": "three words here"}, "long_text"),
        (["--min_image_size", "201"], {}, "small_image"),
        (["--min_image_size", "200"], {}, None),
        (["--languages", "en,de"], {"language": "EN"}, None),
        (["--languages", "en,de"], {"language": "fr"}, "language"),
        ([], {"nsfw": "nsfw"}, "nsfw"),
        ([], {"nsfw": "UNSURE"}, None),
        (["--drop_nsfw", "NSFW,UNSURE"], {"nsfw": "UNSURE"}, "nsfw"),
        (["--drop_nsfw", ""], {"nsfw": "NSFW"}, None),
        ([], {"punsafe": 0.51}, "unsafe"),
        (["--max_punsafe", "1"], {"punsafe": 0.99}, None),
        (["--max_pwatermark", "0.1"], {}, "watermark"),
        (["--licenses", "cc-by*,cc0"], {}, None),
        (["--licenses", "cc0"], {}, "license"),
        (["--drop_licenses", "CC-BY*"], {}, "license"),
        (["--min_similarity", "0.31"], {}, "low_similarity"),
    ],
)
def test_a_rule(options: list[str], values: dict[str, Any], wanted: str | None) -> None:
    assert reason(screening(*options), **values) == wanted


ASKING = {
    "size": (["--min_image_size", "10"], {"width": None, "height": None}),
    "language": (["--languages", "en"], {"language": None}),
    "nsfw": (["--drop_nsfw", "nsfw"], {"nsfw": ""}),
    "punsafe": (["--max_punsafe", "0.9"], {"punsafe": None}),
    "pwatermark": (["--max_pwatermark", "0.9"], {"pwatermark": None}),
    "license": (["--licenses", "*"], {"license": None}),
    "similarity": (["--min_similarity", "0.1"], {"similarity": None}),
}


@pytest.mark.parametrize("column", ASKING)
def test_a_column_that_is_not_there(column: str) -> None:
    options, values = ASKING[column]
    problem, lacking = judge(PAIR | values, screening(*options))
    assert (problem, lacking) == (None, [column])
    problem, lacking = judge(PAIR | values, screening(*options, "--lacking", "drop"))
    assert problem is not None
    assert (problem.reason, lacking) == (f"no_{column}", [column])
    quiet = replace(screening(), drop_nsfw=(), max_punsafe=1.0)  # looks at no column
    assert judge(PAIR | values, replace(quiet, lacking="drop")) == (None, [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max_text_words", "2", "--min_text_words", "3"], "so that no text is left"),
        (["--max_punsafe", "2"], "--max_punsafe is 2.0; a probability"),
        (["--min_similarity", "2"], "--min_similarity is 2.0; a cosine"),
        (["--licenses", "a", "--drop_licenses", "b"], "exclude each other"),
        (["--near_duplicates", "0"], "--near_duplicates is 0.0"),
        (["--max_per_class", "-1"], "--max_per_class is -1"),
        (["--min_clip_score", "7"], "--min_clip_score is 7.0"),
    ],
)
def test_options_that_make_no_sense(options: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse([*BASE, *options])


@pytest.mark.parametrize(
    "option", [["--drop_boilerplate"], ["--evaluation", "x"], ["--lacking=drop"]]
)
def test_options_of_a_kind_that_is_not_built_are_refused(option: list[str]) -> None:
    base = ["--finetune", "in", "--output", "out", "--kinds", "text-compensated"]
    parse(base)
    with pytest.raises(UserError, match=r"is given, but --kinds leaves image-text pairs out"):
        parse([*base, *option])


def pool_part(work: Path, rows: list[dict[str, Any]], **extra: Any) -> Part:
    part = Part("embed-pool", 0, "0.tar", len(rows), "f", extra=extra)
    table = pa.Table.from_pylist([PAIR | row for row in rows], schema=EMBEDDING_METADATA)
    return write_part(str(work), part, table)


def test_a_part_is_screened_counted_and_written_down(tmp_path: Path) -> None:
    rows = [{}, {"caption": ""}, {"language": "fr"}, {"language": None}, {"punsafe": 0.9}, {}]
    pool = pool_part(tmp_path, rows, unusable=[5])
    config = screening("--languages", "en")
    part = screen_part(pool, work=str(tmp_path), config=config, force=False)
    assert kept_rows(str(tmp_path), 0).tolist() == [0, 3]
    dropped = {"bad_embedding": 1, "empty_text": 1, "language": 1, "unsafe": 1}
    assert part.counts == Counts(read=6, kept=2, dropped=dropped, lacking={"language": 1})
    place = tmp_path / "rejected" / "screen-00000.parquet"
    table = pq.read_table(place)
    assert table.schema.equals(REJECTED)
    assert [(row["reason"], row["detail"]) for row in table.to_pylist()] == [
        ("empty_text", "it has no text"),
        ("language", "language fr"),
        ("unsafe", "punsafe 0.9"),
        ("bad_embedding", "its embedding is not finite, or all zeros"),
    ]
    before = place.stat().st_mtime_ns
    assert screen_part(pool, work=str(tmp_path), config=config, force=False) == part
    assert place.stat().st_mtime_ns == before
    place.unlink()  # somebody cleaned up; what was left out can be looked at again
    assert screen_part(pool, work=str(tmp_path), config=config, force=False) == part
    assert place.exists()


def test_what_was_rejected_can_be_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rejected.main([str(tmp_path)]) == 2
    assert "holds no rejected pairs" in capsys.readouterr().err
    pool = pool_part(tmp_path, [{"caption": "IMG_1"}, {"caption": ""}, {"caption": "IMG_2"}])
    config = screening("--drop_boilerplate")
    screen_part(pool, work=str(tmp_path), config=config, force=False)
    assert rejected.main([str(tmp_path), "--limit", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "screen/boilerplate: 2",
        "  0.tar 0: camera counter | IMG_1",
        "screen/empty_text: 1",
        "  0.tar 0: it has no text | ",
    ]
    assert rejected.main([str(tmp_path), "--reason", "empty_text"]) == 0
    assert "boilerplate" not in capsys.readouterr().out
