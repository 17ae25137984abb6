"""Unit lists in the work folder: a graph stays small however much there is to read."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import image_folder, jpeg, pair, write_tar

from pipelines.build import Composition
from pipelines.options import parse
from pipelines.reading import read_unit, unit_fingerprint
from pipelines.units import (
    SLICES_A_FILE,
    ReadUnits,
    read_units,
    unit_names,
    with_items,
    write_units,
)
from schemas.errors import UserError
from shards.decoding import Tally
from shards.sources import open_labelled, open_pool
from shards.sources.base import LIST_SLICE, ListItem, Sample
from shards.sources.files import FileList
from shards.sources.tar_sets import TarSet, read_unit_tar

ITEMS = st.builds(
    ListItem,
    path=st.text(st.characters(codec="utf-8"), min_size=1),
    class_index=st.none() | st.integers(0, 9),
    text=st.none() | st.text(st.characters(codec="utf-8")),
    beside=st.booleans(),
    web=st.none() | st.fixed_dictionaries({"url": st.just("http://x"), "punsafe": st.floats(0, 1)}),
)


@settings(deadline=None, max_examples=30)
@given(items=st.lists(ITEMS, max_size=12), size=st.integers(1, 5))
def test_what_is_listed_is_read_again(
    items: list[ListItem], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    work = str(tmp_path_factory.mktemp("work"))
    source = FileList("list", "root", items, ["a"], size=size)
    place = write_units(work, "finetune", source)
    assert [with_items(unit).items for unit in read_units(place)] == [u.items for u in source.units]
    assert unit_names(place) == [unit.name for unit in source.units]
    assert {unit.root for unit in read_units(place)} <= {"root"}


def test_slices_are_spread_over_files(tmp_path: Path) -> None:
    items = [ListItem(f"{n}.jpg") for n in range(SLICES_A_FILE + 1)]
    place = write_units(str(tmp_path), "pool", FileList("list", "r", items, [], size=1))
    assert len(list((tmp_path / "units" / "pool").glob("items_*.parquet"))) == 2
    last = list(read_units(place))[-1]
    assert (last.items, with_items(last).items) == ((), (items[-1],))


def test_lists_do_not_change_between_runs(tmp_path: Path) -> None:
    source = FileList("list", "r", [ListItem(f"{n}.jpg", n) for n in range(50)], ["a"], size=7)
    for work in ("one", "two"):
        write_units(str(tmp_path / work), "finetune", source)
    one, two = (sorted((tmp_path / work).rglob("*.parquet")) for work in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    assert len(one) == 2


def test_fingerprints_do_not_depend_on_where_the_list_lies(tmp_path: Path) -> None:
    image_folder(tmp_path / "ft", per_class=2)
    source = open_labelled(str(tmp_path / "ft"))
    digests = {
        unit_fingerprint(unit)
        for work in ("one", "two")
        for unit in read_units(write_units(str(tmp_path / work), "finetune", source))
    }
    assert digests == {unit_fingerprint(source.units[0])}


def test_units_come_through_beam(tmp_path: Path) -> None:
    source = TarSet("pool", ["r/0.tar", "r/1.tar", "r/2.tar"], [], labelled=False)
    place = write_units(str(tmp_path), "pool", source)
    with beam.Pipeline() as pipeline:
        assert_that(pipeline | ReadUnits(place), equal_to(source.units))


def test_a_cleared_work_folder_is_one_sentence(tmp_path: Path) -> None:
    place = write_units(str(tmp_path), "pool", FileList("list", "r", [ListItem("a")], []))
    (unit,) = read_units(place)
    (tmp_path / "units" / "pool" / "items_00000.parquet").unlink()
    with pytest.raises(UserError, match="the work folder was cleared while the build ran"):
        with_items(unit)


def test_the_graph_of_a_million_files_is_small(tmp_path: Path) -> None:
    """Neither the files nor the tars exist: a graph is made without looking at them."""
    items = [ListItem(f"class-{n % 1000}/image-{n:07d}.jpg", n % 1000) for n in range(1_000_000)]
    finetune = FileList("data/train", "data/train", items, [f"class {n}" for n in range(1000)])
    tars = [f"laion/{n:05d}.tar" for n in range(40_000)]
    pool = TarSet("laion", tars, [], labelled=False)
    argv = ["--finetune", "data/train", "--pool", "laion", "--output", str(tmp_path / "set")]
    config, options = parse(argv)
    pipeline = beam.Pipeline(options=options)
    Composition(pipeline, config, finetune, pool, complete=False).expand()
    assert len(pipeline.to_runner_api().SerializeToString()) < 1 << 20
    units = list(read_units(str(tmp_path / "set.work" / "units" / "finetune" / "units.parquet")))
    assert len(units) == len(items) // LIST_SLICE
    assert max(len(pickle.dumps(unit)) for unit in units) < 500


def test_units_are_read_ahead_and_what_is_bad_is_told_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = []
    for i in range(40):
        members += pair(f"{i:03d}", jpeg(i), f"picture {i}")[1 if i in (3, 20) else 0 :]
    write_tar(tmp_path / "pool" / "00000.tar", members)
    threads = []

    def noted(*args: Any, **options: Any) -> Iterator[Sample]:
        threads.append(threading.current_thread().name)
        yield from read_unit_tar(*args, **options)

    monkeypatch.setattr("pipelines.reading.read_unit_tar", noted)
    tally = Tally()
    unit = open_pool(str(tmp_path / "pool")).units[0]
    keys, dropped = [], []
    for sample in read_unit(unit, tally, None):
        keys.append(int(sample.source_key))
        dropped.append(sum(tally.dropped.values()))
    assert threads == ["read-ahead"]
    assert keys == [i for i in range(40) if i not in (3, 20)]
    assert dropped == [0] * 3 + [1] * 16 + [2] * 19
    assert tally.dropped == {"no_image": 2}
    assert [key for key, _, _ in tally.examples] == ["003", "020"]
