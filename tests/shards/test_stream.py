"""Streaming: every anchor once, in an order that is known, from any place in it, and no bad one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import jpeg, write_tar
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.record import TEXT_COMPENSATED
from shards import places
from shards.readahead import read_ahead
from shards.reader import AnchorSet
from shards.stream import AnchorStream, Position, Reading
from shards.writer import write_shard


def texts(reading: Reading) -> list[str]:
    return [record.text for record, _ in reading]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seven bare shards of 0 to 6 anchors, 21 in all, as a brace range."""
    root = tmp_path_factory.mktemp("shards")
    made = 0
    for number in range(7):
        samples = [(text_record(made + i), jpeg(made + i)) for i in range(number)]
        write_shard(str(root), TEXT_COMPENSATED, number, samples)
        made += number
    return f"{root}/text-compensated/{{00000..00006}}.tar"


def damage(root: Path, number: int = 1) -> str:
    """Turn a bit in an image of the first shard; returns the sample's key."""
    anchors = AnchorSet.open(str(root))
    shard = anchors.shards()[0]
    row = anchors.table(shard).to_pylist()[number]
    tar = root / shard.path
    data = bytearray(tar.read_bytes())
    data[row["image_offset"] + 30] ^= 4
    tar.write_bytes(bytes(data))
    return str(row["key"])


@pytest.mark.parametrize("store", ["local", "memory"])
def test_a_set_streams_as_it_was_written(tmp_path: Path, store: str) -> None:
    root = str(tmp_path / "set") if store == "local" else f"memory://{tmp_path.name}/stream"
    small_set(root)
    wanted = [(text_record(i), jpeg(i)) for i in range(6)]
    wanted += [(pair_record(i), jpeg(i)) for i in range(6)]
    reading = AnchorStream.open(root).read()
    assert list(reading) == wanted
    assert (reading.tally.kept, reading.tally.dropped) == (12, {})
    # its tars alone, and only those of a kind
    assert list(AnchorStream.open(f"{root}/*/*.tar").read()) == wanted[6:] + wanted[:6]
    for place in (root, f"{root}/*/*.tar"):
        assert list(AnchorStream.open(place, kind="image-text-pair").read()) == wanted[6:]


def test_several_sets_follow_each_other(tmp_path: Path) -> None:
    for name in "ab":
        small_set(str(tmp_path / name), own=[text_record(i, name) for i in range(2)], pairs=[])
    assert texts(AnchorStream.open(f"{tmp_path}/{{b,a}}").read()) == ["b", "b", "a", "a"]
    with pytest.raises(UserError, match=r"b/text-compensated/00000\.tar' is named twice"):
        AnchorStream.open(str(tmp_path / "b"), f"{tmp_path}/*/text-compensated/*.tar")


def test_a_set_without_images_streams_its_records(tmp_path: Path) -> None:
    write_shard(str(tmp_path), TEXT_COMPENSATED, 0, [(text_record(1), None)])
    stream = AnchorStream.open(f"{tmp_path}/*/*.tar")
    assert list(stream.read()) == [(text_record(1), None)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99) | st.none(),
    st.integers(0, 9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.data(),
)
def test_every_anchor_comes_once_whoever_reads(
    shards: str, seed: int | None, epoch: int, world: int, workers: int, data: st.DataObject
) -> None:
    parts = []
    for rank in range(world):
        for worker in range(workers):
            stream = AnchorStream.open(
                shards, seed=seed, rank=rank, world=world, worker=worker, workers=workers
            )
            parts.append(texts(stream.read(epoch)))
    got = [text for part in parts for text in part]
    assert sorted(got) == sorted(f"a circle number {i}" for i in range(21))
    # resume == uninterrupted, from any position, through JSON
    whole = texts(stream.read(epoch))
    taken = data.draw(st.integers(0, len(whole)))
    with stream.read(epoch) as reading:
        first = [next(reading)[0].text for _ in range(taken)]
    rest = texts(stream.read(epoch, json.loads(json.dumps(reading.position))))
    assert first + rest == whole


def test_the_order_hangs_on_seed_and_epoch(shards: str) -> None:
    orders = {
        (seed, epoch): tuple(s.name for s in AnchorStream.open(shards, seed=seed).order(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    # and is the same on every machine, for ever
    assert [int(name[-5]) for name in orders[0, 0]] == [0, 5, 1, 2, 3, 6, 4]


def test_a_position_of_another_stream_is_refused(shards: str, tmp_path: Path) -> None:
    small_set(str(tmp_path))
    wrong = [(1, 0, "00005.tar"), (9, 0, ""), (0, -1, "00000.tar"), (-1, 0, "00006.tar")]
    for position in wrong:
        with pytest.raises(UserError, match="is not one of this stream"):
            AnchorStream.open(shards).read(start=Position(*position))
    with pytest.raises(UserError, match="rank 2 of 2"):
        AnchorStream.open(shards, rank=2, world=2)


@pytest.mark.parametrize("bare", [False, True])
def test_a_bad_sample_is_named_or_counted(tmp_path: Path, bare: bool) -> None:
    small_set(str(tmp_path))
    key = damage(tmp_path)
    place = f"{tmp_path}/text-compensated/*.tar" if bare else str(tmp_path)
    strict = AnchorStream.open(place).read()
    assert next(strict)[0].text == "a circle number 0"
    with pytest.raises(UserError, match=rf"00000\.tar' has a bad sample '{key}' \(hash_mismatch"):
        next(strict)
    with pytest.raises(StopIteration):
        next(strict)
    lenient = AnchorStream.open(place, strict=False, kind=TEXT_COMPENSATED).read()
    assert texts(lenient) == [f"a circle number {i}" for i in (0, 2, 3, 4, 5)]
    assert lenient.tally.counts().model_dump() == {
        "read": 6,
        "kept": 5,
        "dropped": {"hash_mismatch": 1},
    }
    assert lenient.tally.examples[0][0] == key


def test_a_bare_tar_is_checked_against_itself(tmp_path: Path) -> None:
    def members(i: int, **other: bytes) -> list[tuple[str, bytes]]:
        record = text_record(i)
        parts = {"jpg": jpeg(i), "txt": record.text.encode(), "json": record.to_json().encode()}
        return [(f"{record.key}.{ext}", data) for ext, data in (parts | other).items()]

    written = [
        *members(0),
        *members(1, txt=b"another text"),
        *members(2, json=b"{}"),
        *members(3)[:2],
        *[("other" + name[name.index(".") :], data) for name, data in members(4)],
        *members(0),  # again
        *members(5),
    ]
    tar = write_tar(tmp_path / "a.tar", written)
    reading = AnchorStream.open(str(tar), strict=False).read()
    assert [(r.text, i) for r, i in reading] == [(text_record(n).text, jpeg(n)) for n in (0, 5)]
    assert dict(reading.tally.dropped) == {
        "text_mismatch": 1,
        "bad_record": 1,
        "no_record": 1,
        "wrong_key": 1,
        "duplicate_key": 1,
    }
    # bad samples count in a position
    with AnchorStream.open(str(tar), strict=False).read() as one:
        next(one)
    stream = AnchorStream.open(str(tar), strict=False)
    assert texts(stream.read(start=one.position)) == [text_record(5).text]
    tar.write_bytes(tar.read_bytes()[:4500])  # inside a sample
    cut = AnchorStream.open(str(tar), strict=False).read()
    assert texts(cut) == [text_record(0).text]
    assert cut.tally.dropped["truncated_tar"] == 1


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    small_set(str(tmp_path / "set"))
    with pytest.raises(UserError, match=r"nothing' is neither an anchor set nor a \.tar"):
        AnchorStream.open(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"1\.tar' is not there"):
        AnchorStream.open(f"{tmp_path}/{{1..2}}.tar")
    (tmp_path / "set" / "text-compensated" / "00001.tar").unlink()
    reading = AnchorStream.open(str(tmp_path / "set"), strict=False).read()
    with pytest.raises(UserError, match=r"00001\.tar' is not there"):
        list(reading)
    assert reading.tally.kept == 3, "what came before it was read"
    (tmp_path / "set" / "text-compensated" / "00000.parquet").write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file that the manifest names"):
        list(AnchorStream.open(str(tmp_path / "set")).read())


def test_reading_ahead_is_bounded_and_ends_with_its_taker() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(10_000):
            taken += 1
            yield i

    ahead = read_ahead(items(), lambda i: 1 << 20, parcels=3)
    assert [next(ahead) for _ in range(10)] == list(range(10))
    assert taken <= 10 + 3 + 2  # in the queue, and one or two in the making
    before = threading.active_count()
    ahead.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before - 1
    assert taken <= 16


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ArithmeticError("at 3")

    ahead = read_ahead(items(), lambda i: 1)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArithmeticError, match="at 3"):
        next(ahead)


def test_places_named_for_a_shell_are_refused() -> None:
    with pytest.raises(UserError, match="shell command"):
        AnchorStream.open("pipe:touch owned")
    assert not places.exists("owned")
