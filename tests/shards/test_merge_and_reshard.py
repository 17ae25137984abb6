"""Merging and resharding: laws over drawn sets, conflicts, classes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import CLASSES, jpeg
from tiny_sets import pair_record, small_set, text_record

from schemas.errors import UserError
from schemas.record import AnchorRecord
from shards.deriving.merge import OnConflict, merge, unite_classes
from shards.deriving.reshard import reshard
from shards.deriving.strip import strip
from shards.reader import AnchorSet

_fresh = itertools.count()
LAW = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


def own(i: int, classes: tuple[str, ...] = CLASSES, text: str | None = None) -> AnchorRecord:
    """A text-compensated record whose class follows from i."""
    name = CLASSES[i % 3]
    record = text_record(i, text, class_name=name)
    return record.model_copy(update={"class_index": classes.index(name)})


def records(root: str) -> list[tuple[AnchorRecord, bytes | None]]:
    bad: list[str] = []
    found = list(AnchorSet.open(root).samples(lambda key, problem: bad.append(key)))
    assert bad == []
    return found


# What a set holds: (number, version) of its captions, numbers of its pairs, order of its classes.
Content = tuple[dict[int, int], set[int], tuple[str, ...]]
contents = st.tuples(
    st.dictionaries(st.integers(0, 7), st.integers(0, 1), min_size=1, max_size=5),
    st.sets(st.integers(0, 5), max_size=4),
    st.permutations(CLASSES).map(tuple),
)


def write(content: Content) -> str:
    """A set in memory, where the law tests write theirs: nothing there waits for a disk."""
    root = f"memory://laws/{next(_fresh)}"
    versions, pairs, classes = content
    texts = [own(i, classes, f"version {version} of {i}") for i, version in versions.items()]
    small_set(root, texts, [pair_record(i) for i in sorted(pairs)], classes)
    return root


def merged(*sets: str, on_conflict: OnConflict = "error") -> str:
    root = f"memory://laws/{next(_fresh)}"
    merge(sets, root, on_conflict=on_conflict)
    return root


def identity(root: str) -> tuple[str, list[str]]:
    manifest = AnchorSet.open(root).manifest
    return manifest.digest, manifest.classes


@LAW
@given(contents, contents, contents, st.sampled_from(["first", "last"]))
def test_merge_is_associative(a: Content, b: Content, c: Content, rule: OnConflict) -> None:
    one, two, three = write(a), write(b), write(c)
    left = merged(merged(one, two, on_conflict=rule), three, on_conflict=rule)
    right = merged(one, merged(two, three, on_conflict=rule), on_conflict=rule)
    at_once = merged(one, two, three, on_conflict=rule)
    assert identity(left) == identity(right) == identity(at_once)
    keys = {record.key for root in (one, two, three) for record, _ in records(root)}
    assert sorted(record.key for record, _ in records(at_once)) == sorted(keys)


@LAW
@given(contents, contents)
def test_merge_is_idempotent(a: Content, b: Content) -> None:
    one = write(a)
    alone = merged(one)
    assert records(alone) == records(one)
    assert identity(merged(one, one)) == identity(alone)
    both = merged(one, write(b), on_conflict="first")
    assert identity(merged(both, one, both)) == identity(both)


@LAW
@given(contents, st.integers(1, 9), st.integers(1, 9))
def test_resharding_twice_is_resharding_once(a: Content, first: int, then: int) -> None:
    root, *others = write(a), *(f"memory://laws/{next(_fresh)}" for _ in range(3))
    straight = reshard(root, others[0], shard_size=then).manifest
    reshard(root, others[1], shard_size=first)
    assert reshard(others[1], others[2], shard_size=then).manifest.digest == straight.digest
    assert records(others[1]) == records(others[2]) == records(root)
    for kind in straight.kinds:
        sizes = [shard.samples for shard in straight.shards if shard.kind == kind]
        assert all(size == then for size in sizes[:-1])
        assert 1 <= sizes[-1] <= then


def test_classes_are_united_and_their_numbers_follow(tmp_path: Path) -> None:
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "out"))
    theirs = ("star", "square", "circle", "bar")
    small_set(a, [own(i) for i in range(4)], [])
    small_set(b, [own(i, theirs) for i in range(2, 7)], [], theirs)
    made = merge([a, b], out)
    assert made.manifest.classes == [*CLASSES, "star"]
    for record, image in records(out):
        assert made.manifest.classes[record.class_index or 0] == record.class_name
        assert image == jpeg(int(record.source_key))
    counts = made.manifest.provenance.counts["merge"]
    assert (counts.read, counts.kept, counts.dropped) == (9, 7, {"equal_record": 2})


def test_two_classes_of_one_name_stay_two() -> None:
    united, numbers = unite_classes([["crane", "drake", "crane"], ["crane", "owl", "crane"]])
    assert united == ["crane", "drake", "crane", "owl"]
    assert numbers == [[0, 1, 2], [0, 3, 2]]


def test_one_key_with_two_records_is_an_error_that_names_both_sets(tmp_path: Path) -> None:
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "out"))
    small_set(a, [own(0), own(1)], [])
    small_set(b, [own(1, text="another text"), own(2)], [])
    with pytest.raises(UserError) as error:
        merge([a, b], out)
    for part in (own(1).key, a, b, "(in text)", "--on-conflict"):
        assert part in str(error.value)
    assert not Path(out).exists()
    for rule, text in (("first", own(1).text), ("last", "another text")):
        made = merge([a, b], f"{out}-{rule}", on_conflict=rule)  # type: ignore[arg-type]
        assert [r.text for r, _ in records(f"{out}-{rule}")] == [own(0).text, text, own(2).text]
        assert made.manifest.provenance.counts["merge"].dropped == {"conflicting_record": 1}


def test_of_equal_records_the_one_with_an_image_is_taken(tmp_path: Path) -> None:
    whole, bare, out = (str(tmp_path / name) for name in ("whole", "bare", "out"))
    small_set(whole)
    strip(whole, bare, pairs="drop")
    merge([bare, whole], out)
    assert [image for _, image in records(out)] == [image for _, image in records(whole)]


def test_a_class_index_that_its_set_does_not_have_is_counted(tmp_path: Path) -> None:
    bad = own(1).model_copy(update={"class_index": 7})
    small_set(str(tmp_path / "a"), [own(0), bad], [])
    made = merge([str(tmp_path / "a")], str(tmp_path / "out"), max_bad=0.5)
    assert made.manifest.provenance.counts["merge"].dropped == {"unknown_class": 1}
    assert [record.key for record, _ in records(str(tmp_path / "out"))] == [own(0).key]


def test_fields_of_a_newer_version_pass_through(tmp_path: Path) -> None:
    a, out = str(tmp_path / "a"), str(tmp_path / "out")
    newer = AnchorRecord.model_validate(own(0).model_dump() | {"mood": ["calm", 3]})
    small_set(a, [newer, own(1)], [])
    merge([a, a], out)
    assert [record for record, _ in records(out)] == [newer, own(1)]
