"""Draws and batches: every image once an epoch, nothing depends on workers or on the anchors."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainer_samples import (
    caption_record,
    captions_of,
    pair_record,
    some_pairs,
    write_set,
)
from webdataset import TarWriter

from models.clip import Clip
from schemas.errors import BadSample, UserError
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED
from shards.decoding import Tally
from shards.reader import AnchorSet, RangeReader
from shards.sources import open_labelled
from trainer.augment import train_transform
from trainer.captions import Captions, join_captions
from trainer.data import Batch, Share, TrainingBatches, load_batches
from trainer.draws import Order, Stream
from trainer.index import ImageIndex, index_anchors, index_images


@given(
    seed=st.integers(0, 10),
    size=st.integers(1, 60),
    batch=st.integers(1, 70),
    epoch=st.integers(0, 3),
)
def test_an_epoch_visits_each_index_exactly_once(
    seed: int, size: int, batch: int, epoch: int
) -> None:
    order = Order(seed, Stream.FINETUNE_ORDER, size, batch)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    visits = [order.at(step) for step in steps]
    assert {number for number, _ in visits} == {epoch}
    indices = np.concatenate([chosen for _, chosen in visits])
    sizes = [len(chosen) for _, chosen in visits]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    assert sorted(indices.tolist()) == list(range(size))
    # The order does not depend on the steps that were asked for before.
    fresh = Order(seed, Stream.FINETUNE_ORDER, size, batch).at(steps[-1])
    assert fresh[1].tolist() == visits[-1][1].tolist()


@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 70),
    world=st.integers(1, 4),
    step=st.integers(0, 200),
)
def test_processes_share_out_the_batch_of_one(size: int, batch: int, world: int, step: int) -> None:
    order = Order(3, Stream.FINETUNE_ORDER, size, batch)
    epoch, whole = order.at(step)
    shares = [order.at(step, rank, world) for rank in range(world)]
    assert {number for number, _ in shares} == {epoch}
    assert sorted(np.concatenate([own for _, own in shares]).tolist()) == sorted(whole.tolist())
    assert max(len(own) for _, own in shares) - min(len(own) for _, own in shares) <= 1


def test_orders_differ_by_seed_stream_and_epoch() -> None:
    def first(seed: int, stream: Stream, epoch: int) -> list[int]:
        return Order(seed, stream, 50, 50).at(epoch)[1].tolist()  # type: ignore[no-any-return]

    orders = [
        first(seed, stream, epoch)
        for seed in (0, 1)
        for stream in (Stream.FINETUNE_ORDER, Stream.ANCHOR_ORDER)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 8


def indexed(place: Path | str) -> ImageIndex:
    return index_images(open_labelled(str(place)), Tally())


MakeBatches = Callable[..., TrainingBatches]


@pytest.fixture
def make_batches(clip: Clip, images: Path, anchors: Path) -> MakeBatches:
    def make(
        *, with_anchors: bool, seed: int = 0, place: Path | str = images, sets: int = 1
    ) -> TrainingBatches:
        index = indexed(place)
        opened = AnchorSet.open(str(anchors))
        shares = []
        for number in range(sets if with_anchors else 0):
            captions = join_captions(
                index, index_anchors(opened, TEXT_COMPENSATED), where=str(anchors)
            )
            pairs = index_anchors(opened, IMAGE_TEXT_PAIR)
            shares.append(Share(f"set{number}", captions, pairs, 4))
        return TrainingBatches(
            index,
            templates=("a photo of the {c}.", "a {c} thing", "dark {c}"),
            transform=train_transform(clip.preprocess_cfg, 0.5),
            tokenizer=clip.tokenizer,
            seed=seed,
            batch_size=8,
            shares=shares,
        )

    return make


def equal(left: Batch, right: Batch) -> bool:
    maps = ((left.images, right.images), (left.texts, right.texts), (left.rows, right.rows))
    return (
        left.bad == right.bad
        and torch.equal(left.classes, right.classes)
        and all(
            one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
            for one, other in maps
        )
    )


def test_batches_do_not_depend_on_the_workers_or_the_start(make_batches: MakeBatches) -> None:
    torch.manual_seed(11)
    alone = list(load_batches(make_batches(with_anchors=True), 0, 7, workers=0, pin=False))
    torch.manual_seed(12)
    shared = list(load_batches(make_batches(with_anchors=True), 0, 7, workers=2, pin=False))
    late = list(load_batches(make_batches(with_anchors=True), 5, 7, workers=0, pin=False))
    assert len(alone) == len(shared) == 7
    assert all(map(equal, alone, shared))
    assert all(map(equal, alone[5:], late))
    first = alone[0].images["finetune"]
    assert not any(torch.equal(first, other.images["finetune"]) for other in alone[1:])
    other = next(load_batches(make_batches(with_anchors=True, seed=1), 0, 1, workers=0, pin=False))
    assert not torch.equal(first, other.images["finetune"])


def test_anchors_change_nothing_in_the_finetune_draws(make_batches: MakeBatches) -> None:
    with_them, without = (make_batches(with_anchors=choice) for choice in (True, False))
    for step in range(4):
        left, right = with_them[step], without[step]
        assert isinstance(left, Batch)
        assert isinstance(right, Batch)
        assert torch.equal(left.images["finetune"], right.images["finetune"])
        assert torch.equal(left.texts["class"], right.texts["class"])
        assert torch.equal(left.classes, right.classes)
        assert len(left.texts["captions/set0"]) == len(left.rows["captions/set0"]) == 8
        assert len(left.images["pairs/set0"]) == len(left.texts["pairs/set0"])
        assert len(left.images["pairs/set0"]) == (4 if step == 2 else 3)  # ten pairs, at most four
        assert right.images.keys() == {"finetune"}
        assert right.texts.keys() == {"class"}


def test_another_set_changes_nothing_in_the_draws_of_the_first(make_batches: MakeBatches) -> None:
    two, one = (make_batches(with_anchors=True, sets=sets)[1] for sets in (2, 1))
    assert isinstance(two, Batch)
    assert isinstance(one, Batch)
    for mine, theirs in ((one.images, two.images), (one.texts, two.texts)):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not torch.equal(two.images["pairs/set0"], two.images["pairs/set1"])


def test_class_texts_name_the_class_by_drawn_templates(
    make_batches: MakeBatches, clip: Clip
) -> None:
    data = make_batches(with_anchors=True)
    names = data.index.classes
    seen = set()
    for step in range(6):
        batch = data[step]
        assert isinstance(batch, Batch)
        for label, tokens, caption in zip(
            batch.classes, batch.texts["class"], batch.texts["captions/set0"], strict=True
        ):
            texts = [f"a photo of the {names[label]}.", f"a {names[label]} thing"]
            known = clip.tokenizer([*texts, f"dark {names[label]}"])
            (which,) = (i for i in range(3) if torch.equal(known[i], tokens))
            seen.add(which)
            captions = clip.tokenizer(
                [f"a {tone} {names[label]} square" for tone in ("dark", "bright")]
            )
            assert any(torch.equal(row, caption) for row in captions)
    assert seen == {0, 1, 2}


def test_crops_are_drawn_per_visit(make_batches: MakeBatches) -> None:
    data = make_batches(with_anchors=False)
    crops = [data._decode(data.index.read(0, RangeReader()), seed) for seed in (1, 1, 2)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])


def tar_of(images: Path, root: Path) -> Path:
    """CLIP_benchmark's layout."""
    (root / "train").mkdir(parents=True)
    names = sorted(path.name for path in images.iterdir())
    (root / "classnames.txt").write_text("\n".join(names) + "\n")
    with TarWriter(str(root / "train" / "0.tar"), encoder=False) as tar:
        for i, path in enumerate(sorted(images.glob("*/*.jpg"))):
            label = str(names.index(path.parent.name)).encode()
            tar.write({"__key__": f"s{i:04d}", "jpg": path.read_bytes(), "cls": label})
    return root


def test_a_tar_is_indexed_without_its_images_and_read_by_offset(
    images: Path, tmp_path: Path
) -> None:
    folder, tar = indexed(images), indexed(tar_of(images, tmp_path / "bench"))
    assert len(folder) == len(tar) == 24
    assert tar.classes == folder.classes == ["blue", "green", "red"]
    assert tar.label.tolist() == folder.label.tolist()
    assert tar.key(5) == "s0005"
    assert tar.digest() != folder.digest()
    with RangeReader() as reader:
        for i in range(24):
            assert tar.read(i, reader) == folder.read(i, reader)


def test_samples_that_cannot_be_indexed_are_counted(images: Path, tmp_path: Path) -> None:
    root = tar_of(images, tmp_path / "bench")
    with TarWriter(str(root / "train" / "1.tar"), encoder=False) as tar:
        tar.write({"__key__": "a", "jpg": b"x"})
        tar.write({"__key__": "b", "jpg": b"x", "cls": b"17"})
        tar.write({"__key__": "c", "cls": b"0"})
    tally = Tally()
    index = index_images(open_labelled(str(root)), tally)
    assert len(index) == 24
    assert tally.dropped == {"no_label": 1, "bad_label": 1, "no_image": 1}


def test_files_that_no_build_would_take_are_counted(
    images: Path, make_batches: MakeBatches, tmp_path: Path
) -> None:
    root = shutil.copytree(images, tmp_path / "odd")
    (root / "stray.jpg").write_bytes(b"x")
    shutil.copy(root / "red" / "000.jpg", root / "red" / os.fsdecode(b"\xff.jpg"))
    os.mkfifo(root / "red" / "pipe.jpg")
    tally = Tally()
    assert len(index_images(open_labelled(str(root)), tally)) == 25
    assert tally.dropped == {"no_class_folder": 1, "bad_name": 1}
    # A pipe that nobody writes to would be waited for without end.
    batches = list(
        load_batches(make_batches(with_anchors=False, place=root), 0, 4, workers=0, pin=False)
    )
    bad = [what for batch in batches for what in batch.bad]
    assert [what[:3] for what in bad] == [("finetune", "red/pipe.jpg", "missing_file")]
    assert sum(map(len, batches)) == 24


def test_captions_join_by_place(images: Path, anchors: Path) -> None:
    found = joined(images, anchors)
    assert found.matched() == 24
    assert found.by_content == 0
    texts = found.anchors.texts
    random = np.random.default_rng(0)
    index = indexed(images)
    for i in range(24):
        assert index.classes[index.label[i]] in texts.draw(int(found.row[i]), random)


def joined(place: Path, anchors: Path) -> Captions:
    opened = AnchorSet.open(str(anchors))
    return join_captions(
        indexed(place), index_anchors(opened, TEXT_COMPENSATED), where=str(anchors)
    )


def test_captions_join_by_content_where_images_were_moved(
    images: Path, anchors: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    for path in images.glob("*/*.jpg"):
        target = moved / path.parent.name / f"renamed-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    found = joined(moved, anchors)
    assert found.matched() == found.by_content == 24
    with RangeReader() as reader:
        index = indexed(moved)
        for i in range(24):
            found.check(i, index.read(i, reader))
    in_tar = joined(tar_of(images, tmp_path / "bench"), anchors)
    assert in_tar.matched() == in_tar.by_content == 24


def test_images_without_a_caption_have_no_share(images: Path, tmp_path: Path) -> None:
    some = captions_of(images)[:10]
    found = joined(images, write_set(tmp_path / "some", some))
    assert found.matched() == 10
    assert (found.row == -1).sum() == 14


def test_a_set_of_other_images_is_refused(images: Path, tmp_path: Path) -> None:
    data = b"another"
    strange = write_set(tmp_path / "set", [(caption_record("x/y.jpg", data, "a thing"), None)])
    with pytest.raises(UserError, match="none of the 24 finetune images has a caption"):
        joined(images, strange)


def test_an_image_that_is_not_its_captions_is_told_apart(images: Path, anchors: Path) -> None:
    found = joined(images, anchors)
    with pytest.raises(BadSample, match="caption_of_another_image"):
        found.check(3, b"other bytes")


def test_one_of_several_captions_is_drawn_per_visit(images: Path, tmp_path: Path) -> None:
    record, _ = captions_of(images)[0]
    several = record.model_copy(update={"text": "a", "texts": ["a", "b", "c"]})
    found = joined(images, write_set(tmp_path / "set", [(several, None)]))
    row = int(found.row[0])
    drawn = {found.anchors.texts.draw(row, np.random.default_rng(i)) for i in range(40)}
    assert drawn == {"a", "b", "c"}


def test_anchors_are_read_from_both_shards_and_checked(anchors: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(anchors, copy)
    tar = copy / "image-text-pair" / "00001.tar"
    found = index_anchors(AnchorSet.open(str(copy)), IMAGE_TEXT_PAIR)
    assert len(found) == 10
    with RangeReader() as reader:
        for i in range(10):
            digest = hashlib.sha256(found.read(i, reader)).digest()
            assert digest == found.sha256[i].tobytes()
    data = bytearray(tar.read_bytes())
    data[int(found.offset[9]) + 50] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(data)
    with RangeReader() as reader, pytest.raises(BadSample, match="hash_mismatch"):
        found.read(9, reader)


def test_pairs_without_images_are_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", pairs=[(pair_record(1, b"x", "a"), None), *some_pairs(2)])
    with pytest.raises(UserError, match="without image bytes"):
        index_anchors(AnchorSet.open(str(root)), IMAGE_TEXT_PAIR)
