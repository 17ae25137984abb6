"""Batches: step t's images and tokens as a pure function of the seed and t.

A dataset item is the whole batch of a step, so the loader's workers change nothing but the
speed, and a run resumes by starting at a later step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from schemas.errors import BadSample, UserError
from shards.images import decode_image
from shards.reader import RangeReader
from trainer.captions import Captions
from trainer.draws import Order, Stream, draw_seed, generator
from trainer.index import Anchors, ImageIndex
from trainer.templates import fill

Tokenizer = Callable[[list[str]], torch.Tensor]
Transform = Callable[[Image.Image], torch.Tensor]
Bad = tuple[str, str, str, str]
"""Which images (``finetune`` or ``anchors``), key, reason, detail."""


@dataclass(frozen=True)
class Batch:
    """What one step trains on; bad images are left out, so there may be fewer than asked for.

    Attributes:
        images: finetune images, float32 [B, 3, H, W].
        classes: of the images, int64 [B].
        class_texts: tokens of a template filled with the class's name, int64 [B, context].
        captions: tokens of the captions of those images that have one, int64 [C, context].
        caption_rows: their positions in ``images``, int64 [C].
        anchor_images: float32 [A, 3, H, W].
        anchor_texts: tokens of the anchors' texts, int64 [A, context].
        bad: the images left out.
    """

    images: torch.Tensor
    classes: torch.Tensor
    class_texts: torch.Tensor
    captions: torch.Tensor
    caption_rows: torch.Tensor
    anchor_images: torch.Tensor
    anchor_texts: torch.Tensor
    bad: tuple[Bad, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return Batch(
            images=function(self.images),
            classes=function(self.classes),
            class_texts=function(self.class_texts),
            captions=function(self.captions),
            caption_rows=function(self.caption_rows),
            anchor_images=function(self.anchor_images),
            anchor_texts=function(self.anchor_texts),
            bad=self.bad,
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; from pinned memory the copy overlaps with the computation."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; the loader calls it for a GPU."""
        return self._map(torch.Tensor.pin_memory)


def train_transform(preprocess_cfg: dict[str, Any], crop_min: float) -> Transform:
    """open_clip's training transform: a random crop, resized; normalised as the model wants it.

    Args:
        preprocess_cfg: the model's.
        crop_min: least share of the image's area that a crop keeps (FLYP: 0.9).

    Returns:
        RGB image to float32 [3, H, W]; it draws from torch's global generator.
    """
    cfg = PreprocessCfg(**preprocess_cfg)
    transform: Transform = image_transform_v2(cfg, is_train=True, aug_cfg={"scale": (crop_min, 1)})
    return transform


class TrainingBatches(Dataset["Batch | UserError"]):
    """Item t is the batch of step t.

    A UserError is returned, not raised: the loader would bury its sentence in a traceback.

    Args:
        index: finetune images.
        templates: with ``{c}``; one is drawn per visit of an image.
        transform: see train_transform.
        tokenizer: texts to int64 tokens [N, context].
        seed: of every draw.
        batch_size: finetune images a step.
        captions: for the text-compensated term, or None.
        anchors: for the image-text-pair term, or None.
        anchor_batch_size: anchors a step.
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
        captions: Captions | None = None,
        anchors: Anchors | None = None,
        anchor_batch_size: int = 0,
    ) -> None:
        self.index = index
        self.captions = captions
        self.anchors = anchors
        self.order = Order(seed, Stream.FINETUNE_ORDER, len(index), batch_size)
        self.anchor_order = (
            None
            if anchors is None
            else Order(seed, Stream.ANCHOR_ORDER, len(anchors), anchor_batch_size)
        )
        self._templates = templates
        self._transform = transform
        self._tokenizer = tokenizer
        self._seed = seed
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
        captions: list[str] = []
        caption_rows: list[int] = []
        epoch, chosen = self.order.at(step)
        for i in chosen.tolist():
            try:
                image = self._finetune_image(epoch, i, reader)
            except BadSample as problem:
                bad.append(("finetune", self.index.key(i), problem.reason, problem.detail))
                continue
            if self.captions is not None and self.captions.row[i] >= 0:
                random = generator(self._seed, Stream.CAPTION, epoch, i)
                row = int(self.captions.row[i])
                captions.append(self.captions.anchors.texts.draw(row, random))
                caption_rows.append(len(images))
            label = int(self.index.label[i])
            images.append(image)
            labels.append(label)
            texts.append(self._class_text(epoch, i, label))
        anchor_images, anchor_texts = self._anchors(step, reader, bad)
        return Batch(
            images=_stack(images),
            classes=torch.tensor(labels, dtype=torch.int64),
            class_texts=self._tokens(texts),
            captions=self._tokens(captions),
            caption_rows=torch.tensor(caption_rows, dtype=torch.int64),
            anchor_images=_stack(anchor_images),
            anchor_texts=self._tokens(anchor_texts),
            bad=tuple(bad),
        )

    def _finetune_image(self, epoch: int, i: int, reader: RangeReader) -> torch.Tensor:
        data = self.index.read(i, reader)
        if self.captions is not None:
            self.captions.check(i, data)
        return self._decode(data, draw_seed(self._seed, Stream.FINETUNE_CROP, epoch, i))

    def _class_text(self, epoch: int, i: int, label: int) -> str:
        random = generator(self._seed, Stream.TEMPLATE, epoch, i)
        template = self._templates[int(random.integers(len(self._templates)))]
        return fill(template, self.index.classes[label])

    def _anchors(
        self, step: int, reader: RangeReader, bad: list[Bad]
    ) -> tuple[list[torch.Tensor], list[str]]:
        images: list[torch.Tensor] = []
        texts: list[str] = []
        if self.anchors is None or self.anchor_order is None:
            return images, texts
        epoch, chosen = self.anchor_order.at(step)
        for i in chosen.tolist():
            try:
                data = self.anchors.read(i, reader)
                image = self._decode(data, draw_seed(self._seed, Stream.ANCHOR_CROP, epoch, i))
            except BadSample as problem:
                key = str(self.anchors.keys[i].as_py())
                bad.append(("anchors", key, problem.reason, problem.detail))
                continue
            images.append(image)
            random = generator(self._seed, Stream.ANCHOR_TEXT, epoch, i)
            texts.append(self.anchors.texts.draw(i, random))
        return images, texts

    def _decode(self, data: bytes, seed: int) -> torch.Tensor:
        image, _ = decode_image(data)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._transform(image)

    def _tokens(self, texts: list[str]) -> torch.Tensor:
        return self._tokenizer(texts) if texts else torch.empty(0, dtype=torch.int64)


def _stack(images: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(images) if images else torch.empty(0)


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
        generator=torch.Generator(),  # its own, so that torch's global one is left alone
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _as_it_is(item: Any) -> Any:
    return item
