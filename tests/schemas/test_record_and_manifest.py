"""The laws of records and manifests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadSample, UserError
from schemas.manifest import (
    Counts,
    FileEntry,
    Manifest,
    Provenance,
    ShardEntry,
    safe_relative_path,
    set_digest,
)
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, AnchorRecord, anchor_key

SHA = "0" * 63 + "1"
# What a file can hold: everything but halves of surrogate pairs.
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
extras = st.dictionaries(
    texts.map(lambda name: f"x-{name}"),
    st.one_of(texts, st.integers(-(2**40), 2**40), st.booleans(), st.lists(texts, max_size=3)),
    max_size=3,
)


@st.composite
def records(draw: st.DrawFn) -> AnchorRecord:
    kind = draw(st.sampled_from([TEXT_COMPENSATED, IMAGE_TEXT_PAIR]))
    values = {
        "key": draw(st.from_regex(r"[A-Za-z0-9_-]{1,95}", fullmatch=True)),
        "kind": kind,
        "image_sha256": SHA,
        "image_ext": draw(st.sampled_from(["jpg", "png", "webp"])),
        "width": draw(st.integers(1, 2**31 - 1)),
        "height": draw(st.integers(1, 2**31 - 1)),
        "text": draw(texts),
        "source": "a/b.tar",
        "source_key": draw(texts),
        "url": draw(st.none() | texts),
        "punsafe": draw(st.none() | numbers),
    }
    if kind == TEXT_COMPENSATED:
        values |= {"class_index": draw(st.integers(0, 999)), "class_name": draw(texts)}
        values["texts"] = draw(st.lists(texts, max_size=3))
    else:
        values |= {"score": draw(numbers), "rank": draw(st.integers(0, 99))}
        values |= {"query_count": 1, "query_classes": draw(st.lists(texts, max_size=3))}
    return AnchorRecord(**values, **draw(extras))


@given(records())
def test_a_record_survives_its_json(record: AnchorRecord) -> None:
    again = AnchorRecord.from_json(record.to_json())
    assert again == record
    assert again.to_json() == record.to_json()


BASE = {
    "key": "tc-1",
    "kind": TEXT_COMPENSATED,
    "image_sha256": SHA,
    "image_ext": "jpg",
    "width": 1,
    "height": 1,
    "text": "a dog",
    "source": "d/1.jpg",
    "source_key": "d/1.jpg",
    "class_index": 0,
    "class_name": "dog",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "a.b"}, "key"),
        ({"key": "../a"}, "key"),
        ({"kind": "other"}, "kind"),
        ({"image_sha256": "abc"}, "image_sha256"),
        ({"image_ext": "pickle"}, "image_ext"),
        ({"text": ""}, "text"),
        ({"source": "/etc/passwd"}, "climb"),
        ({"source": "a/../../b"}, "climb"),
        ({"class_name": None}, "class_name"),
        ({"kind": IMAGE_TEXT_PAIR}, "score and rank"),
        ({"width": 0}, "width"),
        ({"punsafe": float("nan")}, "punsafe"),
        ({"new": float("inf")}, "JSON"),
    ],
)
def test_a_record_that_is_wrong_says_where(change: dict[str, object], said: str) -> None:
    assert AnchorRecord.from_json(json.dumps(BASE)).text == "a dog"
    with pytest.raises(BadSample, match=said) as caught:
        AnchorRecord.from_json(json.dumps(BASE | change))
    assert caught.value.reason == "bad_record"


def test_keys_differ_where_only_the_source_does() -> None:
    keys = {
        anchor_key(TEXT_COMPENSATED, SHA, source, key)
        for source, key in [("a", "x"), ("b", "x"), ("a", "y"), ("ax", ""), ("", "ax")]
    }
    assert len(keys) == 5
    assert all(AnchorRecord(**(BASE | {"key": key})).key == key for key in keys)


counts = st.builds(
    Counts,
    read=st.integers(0, 100),
    kept=st.integers(0, 100),
    dropped=st.dictionaries(st.sampled_from("abc"), st.integers(1, 9)),
)


@given(counts, counts, counts)
def test_counts_add_in_any_grouping(a: Counts, b: Counts, c: Counts) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Counts() == a


def manifest(**changes: object) -> Manifest:
    index = FileEntry(path="text-compensated/00000.parquet", bytes=5, sha256=SHA)
    shard = ShardEntry(
        path="text-compensated/00000.tar",
        bytes=9,
        sha256=SHA,
        kind=TEXT_COMPENSATED,
        samples=2,
        index=index,
    )
    values = {
        "name": "ünïque",
        "digest": set_digest([shard]),
        "kinds": [TEXT_COMPENSATED],
        "samples": 2,
        "classes": ["dog"],
        "shards": [shard],
        "provenance": Provenance(counts={"caption": Counts(read=2, kept=2)}),
    }
    return Manifest.model_validate(values | changes)


def resealed(text: str, **changes: object) -> str:
    """A manifest's text as another program would write it: changed, and sealed again."""
    from schemas.manifest import seal

    body = json.loads(text) | changes
    return json.dumps(body | {"seal": seal(body)})


def test_a_manifest_survives_its_json() -> None:
    made = manifest()
    text = made.to_json()
    assert Manifest.from_json(text, "here") == made
    assert Manifest.from_json(text.encode(), "here").to_json() == text


def test_fields_of_a_newer_minor_version_are_kept() -> None:
    text = resealed(manifest().to_json(), format_version="1.7", mood={"good": [1, 2]})
    read = Manifest.from_json(text, "here")
    again = json.loads(read.to_json())
    assert (again["mood"], again["format_version"]) == ({"good": [1, 2]}, "1.7")


def test_another_major_version_is_refused_by_name() -> None:
    text = resealed(manifest().to_json(), format_version="2.0")
    with pytest.raises(UserError, match=r"version 2\.0, but this anchorft reads 1\.1"):
        Manifest.from_json(text, "here")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not the manifest"),
        ('{"format": "other"}', "not the manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Manifest.from_json(text, "here")


def test_a_change_by_hand_is_noticed() -> None:
    text = manifest().to_json()
    with pytest.raises(UserError, match="was changed after it was written"):
        Manifest.from_json(text.replace("ünïque", "other"), "here")
    for odd, said in (
        ('"odd": NaN, "classes": [', "NaN is no JSON"),
        ('"odd": 1, "odd": 1, "classes": [', "a name twice"),
        ('"odd": ' + "9" * 5000 + ', "classes": [', "valid JSON"),
        ('"odd": ' + "[" * 100_000 + ', "classes": [', "valid JSON"),
    ):
        with pytest.raises(UserError, match=said):
            Manifest.from_json(text.replace('"classes": [', odd), "here")


def test_a_digest_that_is_not_of_the_shards_is_refused() -> None:
    text = resealed(manifest().to_json(), digest="f" * 64)
    with pytest.raises(UserError, match="does not follow from its shards"):
        Manifest.from_json(text, "here")


def test_a_manifest_must_add_up() -> None:
    for change, said in (
        ({"samples": 3}, "samples"),
        ({"kinds": [IMAGE_TEXT_PAIR]}, "kind"),
        ({"files": [{"path": "text-compensated/00000.tar", "bytes": 1, "sha256": SHA}]}, "path"),
    ):
        with pytest.raises(UserError, match=said):
            Manifest.from_json(resealed(manifest().to_json(), **change), "here")


@pytest.mark.parametrize(
    "path",
    ["/a", "../a", "a/../b", "a//b", "./a", ".", "", "a/", "s3://b/c", "pipe:ls", "a\\b", "a\0b"],
)
def test_paths_that_leave_the_folder_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a plain path"):
        safe_relative_path(path)


def test_plain_paths_pass() -> None:
    assert safe_relative_path("text-compensated/00000.tar") == "text-compensated/00000.tar"


def test_the_digest_is_of_the_data_alone() -> None:
    made = manifest()
    shard = made.shards[0]
    other = shard.model_copy(update={"path": "text-compensated/00001.tar"})
    assert set_digest([shard, other]) == set_digest([other, shard])
    assert set_digest([shard]) != set_digest([other])
    assert manifest(name="b").digest == made.digest
