"""Batches: step t's images and tokens as a pure function of the seed and t.

A dataset item is the whole batch of a step, so the loader's workers change nothing but the
speed, and a run resumes by starting at a later step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from schemas.errors import BadSample, UserError
from shards.images import Decoder, decode_image
from shards.reader import RangeReader
from trainer.augment import Transform
from trainer.captions import Captions
from trainer.draws import Order, Stream, draw_seed, generator
from trainer.index import Anchors, ImageIndex
from trainer.signals import ignore_signals
from trainer.templates import fill

Tokenizer = Callable[[list[str]], torch.Tensor]
Bad = tuple[str, str, str, str]
"""Which images (``finetune`` or ``pairs/NAME``), key, reason, detail."""


@dataclass(frozen=True)
class Batch:
    """What one step trains on; bad images are left out, so there may be fewer than asked for.

    Images and texts go by name: ``finetune`` are the finetune images and ``class`` the texts of
    their classes; each anchor set adds its own name with a prefix, ``captions/NAME`` to the texts
    and ``pairs/NAME`` to both.

    Attributes:
        images: float32 [N, 3, H, W] each.
        texts: int64 tokens [N, context] each.
        classes: of the finetune images, int64 [B].
        rows: of texts that belong to some of the finetune images only: which, int64 [N].
        bad: the images left out.
        keys: of the images that are there, by the name of the images, in their order.
    """

    images: Mapping[str, torch.Tensor]
    texts: Mapping[str, torch.Tensor]
    classes: torch.Tensor
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    bad: tuple[Bad, ...] = ()
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.classes)

    def samples(self) -> int:
        """Images of every kind."""
        return sum(map(len, self.images.values()))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        def every(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: function(tensor) for name, tensor in tensors.items()}

        return Batch(
            every(self.images),
            every(self.texts),
            function(self.classes),
            every(self.rows),
            self.bad,
            self.keys,
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; from pinned memory the copy overlaps with the computation."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until what the stream has to do now is done, on a GPU."""

        def record(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(stream)
            return tensor

        self._map(record)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; the loader calls it for a GPU."""
        return self._map(torch.Tensor.pin_memory)


@dataclass(frozen=True)
class Share:
    """What an anchor set gives to every batch.

    Attributes:
        name: of the set, in names of images, texts and terms.
        captions: of the finetune images, or None.
        pairs: image-text pairs, or None.
        batch_size: pairs a step, all processes together.
    """

    name: str
    captions: Captions | None = None
    pairs: Anchors | None = None
    batch_size: int = 0

    @property
    def captions_name(self) -> str:
        """Of its captions among a batch's texts."""
        return f"captions/{self.name}"

    @property
    def pairs_name(self) -> str:
        """Of its pairs among a batch's images, and among its texts."""
        return f"pairs/{self.name}"


class TrainingBatches(Dataset["Batch | UserError"]):
    """Item t is the batch of step t, or this process's share of it.

    A UserError is returned, not raised: the loader would bury its sentence in a traceback.

    Args:
        index: finetune images.
        templates: with ``{c}``; one is drawn per visit of an image.
        transform: RGB image to float32 [3, H, W]; see trainer.augment.
        tokenizer: texts to int64 tokens [N, context].
        seed: of every draw.
        batch_size: finetune images a step, all processes together.
        shares: what anchor sets add; their names differ.
        decoder: of JPEGs.
        least: sides that a JPEG keeps if it is made smaller while it is decoded; None for as it is.
        window: read shard after shard, mixed over so many samples; None for any order.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        templates: tuple[str, ...],
        transform: Transform,
        tokenizer: Tokenizer,
        seed: int,
        batch_size: int,
        shares: Sequence[Share] = (),
        decoder: Decoder = "pil",
        least: int | None = None,
        window: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.index = index
        self.shares = tuple(shares)

        def shards(file: NDArray[np.int32]) -> dict[str, Any]:
            return {} if window is None else {"shard": file, "window": window}

        self.order = Order(
            seed, Stream.FINETUNE_ORDER, len(index), batch_size, **shards(index.file)
        )
        self.pair_orders = {
            number: Order(
                draw_seed(seed, Stream.ANCHOR_ORDER, number),
                Stream.ANCHOR_ORDER,
                len(share.pairs),
                share.batch_size,
                **shards(share.pairs.file),
            )
            for number, share in enumerate(self.shares)
            if share.pairs is not None
        }
        self._templates = templates
        self._transform = transform
        self._tokenizer = tokenizer
        self._seed = seed
        self._decoder, self._least = decoder, least
        self._rank, self._world = rank, world
        self._reader: RangeReader | None = None  # opened by the process that reads

    def __getitem__(self, step: int) -> Batch | UserError:
        """The batch of a step; see the class."""
        if self._reader is None:
            self._reader = RangeReader()
        try:
            return self._batch(step, self._reader)
        except UserError as error:
            return error

    def _batch(self, step: int, reader: RangeReader) -> Batch:
        bad: list[Bad] = []
        images: list[torch.Tensor] = []
        labels: list[int] = []
        texts: list[str] = []
        captions: dict[int, list[str]] = {
            number: [] for number, share in enumerate(self.shares) if share.captions is not None
        }
        rows: dict[int, list[int]] = {number: [] for number in captions}
        keys: dict[str, list[str]] = {"finetune": []}
        epoch, chosen = self.order.at(step, self._rank, self._world)
        for i in chosen.tolist():
            try:
                image = self._finetune_image(epoch, i, reader)
            except BadSample as problem:
                bad.append(("finetune", self.index.key(i), problem.reason, problem.detail))
                continue
            for number in captions:
                caption = self._caption(number, epoch, i)
                if caption is not None:
                    captions[number].append(caption)
                    rows[number].append(len(images))
            label = int(self.index.label[i])
            images.append(image)
            keys["finetune"].append(self.index.key(i))
            labels.append(label)
            texts.append(self._class_text(epoch, i, label))
        all_images = {"finetune": self._stack(images)}
        all_texts = {"class": self._tokens(texts)}
        for number, found in captions.items():
            all_texts[self.shares[number].captions_name] = self._tokens(found)
        for number in self.pair_orders:
            name = self.shares[number].pairs_name
            keys[name] = []
            pair_images, pair_texts = self._pairs(number, step, reader, bad, keys[name])
            all_images[name], all_texts[name] = self._stack(pair_images), self._tokens(pair_texts)
        return Batch(
            all_images,
            all_texts,
            torch.tensor(labels, dtype=torch.int64),
            {
                self.shares[number].captions_name: torch.tensor(found, dtype=torch.int64)
                for number, found in rows.items()
            },
            tuple(bad),
            {name: tuple(found) for name, found in keys.items()},
        )

    def _finetune_image(self, epoch: int, i: int, reader: RangeReader) -> torch.Tensor:
        data = self.index.read(i, reader)
        for share in self.shares:
            if share.captions is not None:
                share.captions.check(i, data)
        return self._decode(data, draw_seed(self._seed, Stream.FINETUNE_CROP, epoch, i))

    def _class_text(self, epoch: int, i: int, label: int) -> str:
        random = generator(self._seed, Stream.TEMPLATE, epoch, i)
        template = self._templates[int(random.integers(len(self._templates)))]
        return fill(template, self.index.classes[label])

    def _caption(self, number: int, epoch: int, i: int) -> str | None:
        captions = self.shares[number].captions
        assert captions is not None
        row = int(captions.row[i])
        if row < 0:
            return None
        random = generator(self._seed, Stream.CAPTION, number, epoch, i)
        return captions.anchors.texts.draw(row, random)

    def _pairs(
        self, number: int, step: int, reader: RangeReader, bad: list[Bad], keys: list[str]
    ) -> tuple[list[torch.Tensor], list[str]]:
        pairs = self.shares[number].pairs
        assert pairs is not None
        images: list[torch.Tensor] = []
        texts: list[str] = []
        epoch, chosen = self.pair_orders[number].at(step, self._rank, self._world)
        for i in chosen.tolist():
            what = (number, epoch, i)
            key = str(pairs.keys[i].as_py())
            try:
                data = pairs.read(i, reader)
                image = self._decode(data, draw_seed(self._seed, Stream.ANCHOR_CROP, *what))
            except BadSample as problem:
                bad.append((self.shares[number].pairs_name, key, problem.reason, problem.detail))
                continue
            images.append(image)
            keys.append(key)
            random = generator(self._seed, Stream.ANCHOR_TEXT, *what)
            texts.append(pairs.texts.draw(i, random))
        return images, texts

    def _decode(self, data: bytes, seed: int) -> torch.Tensor:
        image, _ = decode_image(data, decoder=self._decoder, least=self._least)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._transform(image)

    def _tokens(self, texts: list[str]) -> torch.Tensor:
        return self._tokenizer(texts) if texts else self._tokenizer([""])[:0]

    def _stack(self, images: list[torch.Tensor]) -> torch.Tensor:
        if images:
            return torch.stack(images)
        with torch.random.fork_rng(devices=[]):  # no images, but of the shape that they have
            return self._transform(Image.new("RGB", (64, 64)))[None][:0]


def load_batches(
    dataset: TrainingBatches, start: int, total: int, *, workers: int, pin: bool
) -> Iterator[Batch]:
    """The batches of steps ``start`` to ``total`` - 1, in order.

    Each worker makes whole batches and keeps one ahead, so at most about ``workers`` batches
    wait in memory.

    Args:
        dataset: see TrainingBatches.
        start: first step.
        total: steps of the run.
        workers: processes; 0 makes each batch when it is asked for.
        pin: put batches into page-locked memory, for a GPU.

    Raises:
        UserError: a file of the data is gone.
    """
    loader: DataLoader[Batch | UserError] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, total),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        prefetch_factor=1 if workers else None,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # its own, so that torch's global one is left alone
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _as_it_is(item: Any) -> Any:
    return item
