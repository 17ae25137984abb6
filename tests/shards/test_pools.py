"""Pools of image-text pairs in every layout but plain tars: lists, folders, several places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import s3_server
from tiny_data import jpeg, pair, pool, write_tar

from schemas.errors import BadSample, UserError
from shards import places
from shards.sources import open_pool, read_unit
from shards.sources.base import Sample, Source
from shards.sources.web import caption_of, known_columns, lower_case, web_of


class Heard:
    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, key: str, problem: BadSample) -> None:
        self.all.append((key, problem.reason))


def all_of(source: Source) -> list[Sample]:
    return [sample for unit in source.units for sample in read_unit(source, unit)]


def texts(*given: object) -> dict[str, str | None]:
    return {s.source: s.text for s in all_of(open_pool(*map(str, given)))}


def images(root: Path, names: list[str]) -> None:
    for n, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(n))


ROWS: list[dict[str, Any]] = [
    {"filepath": "x/0.jpg", "title": "zero, with a comma", "URL": "u0", "punsafe": 0.5},
    {"filepath": "x/1.jpg", "title": None, "URL": "u1", "punsafe": None},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    mark = "\t" if path.suffix == ".tsv" else ","
    cells = [list(rows[0]), *[["" if v is None else f'"{v}"' for v in r.values()] for r in rows]]
    path.write_text("".join(mark.join(line) + "\n" for line in cells), encoding="utf-8")
    return path


@pytest.mark.parametrize("ext", ["csv", "tsv", "parquet"])
def test_a_list_of_pairs(tmp_path: Path, ext: str) -> None:
    images(tmp_path, ["x/0.jpg", "x/1.jpg"])
    source = open_pool(str(write_rows(tmp_path / f"pairs.{ext}", ROWS)))
    one, two = all_of(source)
    assert (one.source, one.text, one.web) == (
        *("x/0.jpg", "zero, with a comma"),
        {"url": "u0", "punsafe": 0.5},
    )
    assert (two.text, two.web, two.class_index) == ("", {"url": "u1"}, None)
    assert source.classes == []


def test_lists_that_are_wrong(tmp_path: Path) -> None:
    for rows, said in (
        ([{"filepath": "a.jpg", "x": "y"}], "but none of caption, title"),
        ([{"URL": "a.jpg", "title": "y"}], "but none of filepath, path"),
        ([{"filepath": "", "title": "y"}], "lacks the filepath in row 1"),
    ):
        place = write_rows(tmp_path / "pairs.csv", rows)
        with pytest.raises(UserError, match=said):
            open_pool(str(place))


def test_files_beside_each_other(tmp_path: Path) -> None:
    names = ["00000/000000001.jpg", "00000/000000002.webp", "00001/3.PNG", "00001/4.jpg", "5.jpg"]
    images(tmp_path, names)
    (tmp_path / "00000/000000001.txt").write_text("one", encoding="utf-8")
    about = {"TEXT": "not this", "URL": "u", "NSFW": "UNSURE"}
    (tmp_path / "00000/000000001.json").write_text(json.dumps(about))
    (tmp_path / "00000/000000002.json").write_text(json.dumps({"caption": "two"}))
    (tmp_path / "00001/4.json").write_text("{")
    (tmp_path / "00000.parquet").write_bytes(b"")
    source, heard = open_pool(str(tmp_path)), Heard()
    found = [s for unit in source.units for s in source.read(unit, heard)]
    assert [(s.source, s.text) for s in found] == [
        ("00000/000000001.jpg", "one"),
        ("00000/000000002.webp", "two"),
        ("00001/3.PNG", None),
        ("5.jpg", None),
    ]
    assert found[0].web == {"url": "u", "nsfw": "UNSURE"}
    assert heard.all == [("00001/4.jpg", "bad_json")]


def test_several_places(tmp_path: Path) -> None:
    pool(tmp_path / "a", tars=2, per_tar=2)
    pool(tmp_path / "b" / "c", tars=1, per_tar=2)
    source = open_pool(str(tmp_path / "a"), f"{tmp_path}/b/c/{{00000..00000}}.tar")
    assert [unit.name for unit in source.units] == ["a/00000.tar", "a/00001.tar", "b/c/00000.tar"]
    assert [unit.number for unit in source.units] == [0, 1, 2]
    assert len(all_of(source)) == 6
    with pytest.raises(UserError, match=r"--pool names '.*/a/00001\.tar' 2 times"):
        open_pool(str(tmp_path / "a"), f"{tmp_path}/./a/00001.tar")


def test_places_in_several_buckets(tmp_path: Path) -> None:
    tars = pool(tmp_path, tars=1, per_tar=2)
    for bucket in ("one", "two"):
        place = f"memory://{tmp_path.name}-{bucket}/laion/0.tar"
        places.write_bytes(place, (tars / "00000.tar").read_bytes())
    source = open_pool(*[f"memory://{tmp_path.name}-{bucket}/laion" for bucket in ("one", "two")])
    names = [f"{tmp_path.name}-{bucket}/laion/0.tar" for bucket in ("one", "two")]
    assert [unit.name for unit in source.units] == names
    assert len(all_of(source)) == 4


def test_several_lists_and_folders(tmp_path: Path) -> None:
    images(tmp_path, ["l/x/0.jpg", "l/x/1.jpg", "f/y/0.jpg"])
    (tmp_path / "f/y/0.txt").write_text("beside")
    write_rows(tmp_path / "l/0.tsv", ROWS[:1])
    write_rows(tmp_path / "l/1.tsv", ROWS[1:])
    assert texts(tmp_path / "l/{0..1}.tsv", tmp_path / "f") == {
        "l/x/0.jpg": "zero, with a comma",
        "l/x/1.jpg": "",
        "f/y/0.jpg": "beside",
    }
    write_tar(tmp_path / "t" / "0.tar", pair("a", jpeg(0), "t"))
    with pytest.raises(UserError, match="names both tars and lists of files"):
        open_pool(str(tmp_path / "t"), str(tmp_path / "f"))


def test_a_parquet_beside_a_tar_fills_the_gaps(tmp_path: Path) -> None:
    members = [
        *pair("a", jpeg(0), None, URL="of the json", NSFW=None),
        *[("b.jpg", jpeg(1)), ("b.txt", b"b")],
    ]
    write_tar(tmp_path / "0.tar", members)
    rows = [
        {"key": "a", "caption": "of the table", "url": "t", "NSFW": "NSFW", "status": "success"},
        {"key": "c", "caption": "c", "url": "c", "NSFW": None, "status": "failed_to_download"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0.parquet")
    source, heard = open_pool(str(tmp_path)), Heard()
    (found,) = source.read(source.units[0], heard)
    assert found.text == "of the table"
    assert found.web == {"url": "of the json", "nsfw": "NSFW"}
    assert heard.all == [("b", "missing_json")]


@pytest.mark.parametrize(
    ("keys", "rows", "lost"),
    [
        ("ab", "ab", []),  # no sample has a json, and the table knows them all
        ("ab", "a", ["b"]),
        ("ab", None, []),  # a plain webdataset of pairs
    ],
)
def test_tars_without_jsons(tmp_path: Path, keys: str, rows: str | None, lost: list[str]) -> None:
    write_tar(tmp_path / "0.tar", [(f"{key}.jpg", jpeg(0)) for key in keys])
    if rows is not None:
        table = [{"key": key, "TEXT": key * 3} for key in rows]
        pq.write_table(pa.Table.from_pylist(table), tmp_path / "0.parquet")
    source, heard = open_pool(str(tmp_path)), Heard()
    found = list(source.read(source.units[0], heard))
    assert heard.all == [(key, "missing_json") for key in lost]
    assert [s.text for s in found] == [k * 3 if rows else None for k in keys if k not in lost]


def test_a_json_that_comes_late_is_due_from_then_on(tmp_path: Path) -> None:
    members = [(f"{n:02d}.jpg", jpeg(0)) for n in range(20)]
    members += [*pair("30", jpeg(0), "t"), ("31.jpg", jpeg(0))]
    write_tar(tmp_path / "0.tar", members)
    source, heard = open_pool(str(tmp_path)), Heard()
    assert len(list(source.read(source.units[0], heard))) == 21
    assert heard.all == [("31", "missing_json")]


def test_parquets_that_are_none_of_ours(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", pair("a", jpeg(0), "t"))
    source = open_pool(str(tmp_path))
    for data, bad in ((b"half", ["bad_parquet"]), (None, [])):
        if data is None:
            pq.write_table(pa.table({"other": [1]}), tmp_path / "0.parquet")
        else:
            (tmp_path / "0.parquet").write_bytes(data)
        heard = Heard()
        assert [s.text for s in source.read(source.units[0], heard)] == ["t"]
        assert [reason for _, reason in heard.all] == bad


@pytest.mark.parametrize(
    ("about", "text", "web"),
    [
        (
            {"SAMPLE_ID": 1, "URL": "u", "TEXT": "t", "LICENSE": "?", "NSFW": "UNLIKELY"},
            "t",
            {"url": "u", "license": "?", "nsfw": "UNLIKELY"},
        ),
        (
            {"URL": "u", "LANGUAGE": "en", "pwatermark": 0.1, "punsafe": "0.2", "hash": 3},
            None,
            {"url": "u", "language": "en", "pwatermark": 0.1, "punsafe": 0.2},
        ),
        (
            {"url": "u", "text": "t", "clip_similarity_vitb32": 0.3, "watermark_score": 0.4}
            | {"clip_similarity_vitl14": 0.1, "nsfw_score_opennsfw2": 0.5},
            "t",
            {"url": "u", "similarity": 0.3, "pwatermark": 0.4, "punsafe": 0.5},
        ),
        (
            {"uid": "x", "clip_l14_similarity_score": 0.2, "clip_b32_similarity_score": 0.3},
            None,
            {"similarity": 0.3},
        ),
        ({"Url": "u", "similarity": float("nan")}, None, {"url": "u"}),
    ],
)
def test_names_of_every_release(
    about: dict[str, Any], text: str | None, web: dict[str, Any]
) -> None:
    known = lower_case(about)
    assert (caption_of(known), web_of(known)) == (text, web)
    assert {name.lower() for name in known_columns(about)} >= {"url"} & known.keys()


def test_stores(tmp_path: Path) -> None:
    pool(tmp_path / "laion", tars=2, per_tar=2)
    images(tmp_path, ["files/x/0.jpg"])
    (tmp_path / "files/x/0.txt").write_text("beside")
    write_rows(tmp_path / "files/pairs.csv", ROWS[:1])

    def check(store: str) -> None:
        for path in tmp_path.rglob("*"):
            if path.is_file():
                places.write_bytes(f"{store}/{path.relative_to(tmp_path)}", path.read_bytes())
        tars = all_of(open_pool(str(tmp_path / "laion")))
        for place in ("laion", "laion/{00000..00001}.tar", "laion/*.tar"):
            assert all_of(open_pool(f"{store}/{place}")) == tars
        assert texts(f"{store}/files") == {"x/0.jpg": "beside"}
        assert texts(f"{store}/files/pairs.csv") == {"x/0.jpg": "zero, with a comma"}

    check(f"memory://{tmp_path.name}")
    with s3_server() as bucket:
        check(f"{bucket}/deep")
