"""Labelled images in every layout that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import CLASSES, image_folder, jpeg, labelled_tars, photographs, write_tar

from schemas.errors import BadSample, UserError
from shards.sources import open_labelled, raise_bad, read_unit
from shards.sources.base import LIST_SLICE, Sample, Source


def all_of(source: Source) -> list[Sample]:
    return [sample for unit in source.units for sample in read_unit(source, unit)]


def labels(source: Source) -> list[tuple[str, str]]:
    return [(s.source, source.classes[s.class_index or 0]) for s in all_of(source)]


def test_an_image_folder(tmp_path: Path) -> None:
    source = open_labelled(str(image_folder(tmp_path / "ft", per_class=2)))
    assert source.classes == ["bar", "circle", "square"]
    assert labels(source) == [(f"{c}/{n}.jpg", c) for c in source.classes for n in (0, 1)]
    assert all_of(source)[2].image == jpeg(0)


def test_odd_names_nested_folders_links_and_litter(tmp_path: Path) -> None:
    root = tmp_path / "ft"
    names = ["a b/x y.jpg", "ünï/日本 #1.v2.JPG", "c::d/100%.jpg", "deep/er/and/deeper.jpeg"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(1))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").write_bytes(jpeg(2))
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a b" / "z.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    (root / "deep" / "circle").symlink_to(root)
    for litter in ("a b/.DS_Store", "a b/Thumbs.db", "desktop.ini", ".git/HEAD", "__MACOSX/x.jpg"):
        (root / litter).parent.mkdir(exist_ok=True)
        (root / litter).write_bytes(b"litter")
    (root / "README.txt").write_text("notes")
    source = open_labelled(str(root))
    assert source.classes == ["a b", "c::d", "deep", "linked", "ünï"]
    assert {s.source for s in all_of(source)} == {*names, "linked/1.jpg", "a b/z.jpg"}


def test_an_image_outside_the_class_folders_is_counted(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    (root / "stray.jpg").write_bytes(jpeg(1))
    (root / "bar" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    bad: list[tuple[str, str]] = []
    source = open_labelled(str(root))
    list(source.read(source.units[0], lambda key, problem: bad.append((key, problem.reason))))
    assert bad == [("bar/gone.jpg", "missing_file"), ("stray.jpg", "no_class_folder")]


def test_long_lists_are_cut_into_units(tmp_path: Path) -> None:
    for n in range(LIST_SLICE + 1):
        (tmp_path / "ft" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "ft" / "a" / f"{n:05d}.jpg").write_bytes(b"x")
    source = open_labelled(str(tmp_path / "ft"))
    assert [len(unit.items) for unit in source.units] == [LIST_SLICE, 1]
    assert [unit.name for unit in source.units] == ["images-00000", "images-00001"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classnames.txt", "bar a long bar\ncircle o\nsquare box\n"),
        ("classnames.txt", "\ufeffa long bar\r\no\r\nbox\r\n"),
        ("classnames.json", json.dumps({"square": "box", "circle": "o", "bar": "a long bar"})),
        ("classnames.json", json.dumps(["a long bar", "o", "box"])),
    ],
)
def test_class_names_beside_the_folders(tmp_path: Path, name: str, text: str) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    (root / name).write_text(text, encoding="utf-8")
    assert open_labelled(str(root)).classes == ["a long bar", "o", "box"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("n.txt", "bar\n", "has 1 class names for 3 class folders"),
        ("n.json", '{"bar": "x"}', "has no name for class folder 'circle'"),
        ("n.json", '{"other": "x"}', "names class folder 'other', which is not there"),
        ("n.json", "{", "not valid JSON"),
        ("n.json", "3", "neither an object"),
    ],
)
def test_class_names_that_do_not_fit(tmp_path: Path, name: str, text: str, said: str) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        open_labelled(str(root), str(tmp_path / name))


def test_folders_that_are_no_image_folders(tmp_path: Path) -> None:
    for make, said in (
        ((), "is not there"),
        (("ft/",), "holds no class folders"),
        (("ft/a/", "ft/a/.DS_Store"), "class folder '.*/ft/a' is empty"),
        (("ft/train/", "ft/train/a/1.jpg", "ft/val/a/1.jpg"), "holds the splits .*train, val"),
    ):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        for path in make:
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            _ = place.mkdir(exist_ok=True) if path.endswith("/") else place.write_bytes(b"x")
        with pytest.raises(UserError, match=said):
            open_labelled(str(root / "ft"))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"neither a folder nor a \.tar"):
        open_labelled(str(tmp_path / "data.zip"))


def test_clip_benchmark_means_train_unless_told(tmp_path: Path) -> None:
    root = labelled_tars(tmp_path / "cb")
    source = open_labelled(str(root))
    assert source.classes == list(CLASSES)
    assert [unit.name for unit in source.units] == ["0.tar", "1.tar"]
    samples = all_of(source)
    assert [s.image for s in samples] == [jpeg(i) for i in range(12)]
    assert [s.class_index for s in samples] == [i % 3 for i in range(12)]
    test = open_labelled(str(root), split="test")
    assert all_of(test)[0].image == jpeg(500)
    with pytest.raises(UserError, match="has no 'val' split, only test, train"):
        open_labelled(str(root), split="val")


def test_tars_are_taken_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for n in range(11):
        members = [(f"{n}.jpg", jpeg(n)), (f"{n}.cls", b"0")]
        write_tar(tmp_path / "t" / f"{n}.tar", members)
    (tmp_path / "t" / "classnames.txt").write_text("a\n")
    for place in (tmp_path / "t", f"{tmp_path}/t/*.tar", f"{tmp_path}/t/{{0..10}}.tar"):
        assert [s.source_key for s in all_of(open_labelled(str(place)))] == list(
            map(str, range(11))
        )
    assert len(all_of(open_labelled(str(tmp_path / "t" / "3.tar")))) == 1


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("a.cls", b"3"), "bad_label"),
        (("a.cls", b"-1"), "bad_label"),
        (("a.cls", b"dog"), "bad_label"),
        (("a.json", b'{"label": 0.5}'), "bad_label"),
        (("a.json", b'{"label": true}'), "bad_label"),
        (("a.json", b"{}"), "no_label"),
        (("a.json", b'{"label": 2}'), None),
        (("a.cls", b" 2\n"), None),
    ],
)
def test_labels_of_tars(tmp_path: Path, member: tuple[str, bytes], reason: str | None) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.jpg", b"x"), member])
    (tmp_path / "classnames.txt").write_text("a\nb\nc\n")
    source = open_labelled(str(path))
    bad: list[str] = []
    found = list(source.read(source.units[0], lambda key, problem: bad.append(problem.reason)))
    assert bad == ([reason] if reason else [])
    assert [s.class_index for s in found] == ([] if reason else [2])


def test_tars_without_class_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [])
    with pytest.raises(UserError, match=r"no classnames\.txt beside its tars"):
        open_labelled(str(tmp_path))


LIST = [("bar/0.jpg", "bar"), ("circle/0.jpg", "circle")]


def write_list(path: Path, rows: list[tuple[object, object]], names: tuple[str, str]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows]), path)
        return path
    mark = "\t" if path.suffix == ".tsv" else ","
    lines = [mark.join(map(str, row)) for row in [names, *rows]]
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ext", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("names", [("filepath", "title"), ("path", "label")])
def test_lists(tmp_path: Path, ext: str, names: tuple[str, str]) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    source = open_labelled(str(write_list(root / f"list.{ext}", LIST, names)))
    assert labels(source) == LIST


def test_lists_may_point_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    (tmp_path / "lists").mkdir()
    for prefix in (str(root), "../ft"):
        rows = [(f"{prefix}/{path}", label) for path, label in LIST]
        path = write_list(tmp_path / "lists" / "a.csv", rows, ("filepath", "title"))
        assert labels(open_labelled(str(path))) == LIST
    monkeypatch.chdir(root)
    assert labels(open_labelled(str(write_list(Path("b.csv"), LIST, ("path", "label"))))) == LIST


def test_integer_labels_need_names(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "ft", per_class=1)
    rows = [("bar/0.jpg", 1), ("circle/0.jpg", 0)]
    path = write_list(root / "list.parquet", rows, ("path", "label"))
    with pytest.raises(UserError, match="integer labels and so needs class names"):
        open_labelled(str(path))
    names = tmp_path / "names.txt"
    names.write_text("o\nthe bar\n")
    assert labels(open_labelled(str(path), str(names)))[0] == ("bar/0.jpg", "the bar")
    names.write_text("only one\n")
    with pytest.raises(UserError, match=r"label '1' of 'bar/0\.jpg' is not among the 1"):
        open_labelled(str(path), str(names))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"filepath,title\n", "no rows below its header"),
        (b"", "no rows below its header"),
        (b"a,b\n1,2\n", "but none of filepath"),
        (b"filepath,title\nx.jpg\n", "lacks the filepath or the title in row 1"),
        (b"filepath,title\n\xff\xfe,a\n", "not UTF-8"),
    ],
)
def test_lists_that_are_wrong(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(UserError, match=said):
        open_labelled(str(tmp_path / "list.csv"))
    (tmp_path / "list.parquet").write_bytes(text)
    with pytest.raises(UserError, match="not a parquet that can be read"):
        open_labelled(str(tmp_path / "list.parquet"))


def test_photographs_as_people_have_them(tmp_path: Path) -> None:
    photographs(tmp_path / "photos")
    source = open_labelled(str(tmp_path / "photos"))
    assert source.classes == ["Golden Retriever", "tabby cat"]
    assert len(all_of(source)) == 9


def test_strict_reading_names_the_sample() -> None:
    with pytest.raises(BadSample, match="no_image: key: why"):
        raise_bad("key", BadSample("no_image", "why"))
