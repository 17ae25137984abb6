"""Copies of evaluation images in a pool: how many are found, and how many others are taken.

    python -m benchmarks.contamination

Plants copies of each kind (benchmarks.planted) and pictures that are none, and asks of each
whether it is a copy of one of the evaluation images, as the select stage does: the toy world's
CLIP proposes, pixels decide. Two worlds: scenes of the toy world, where the hard ones share class,
colour and background with an evaluation image, and twins all that the renderer is told but its
seed; and pictures with the spectrum of photographs, of which that CLIP has seen none.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import conditions, parser, report
from benchmarks.planted import (
    KINDS,
    SIMILAR,
    TWIN,
    copy_of,
    others_like,
    photographs,
    pictured,
    scenes,
)
from pipelines.config import Machine
from pipelines.embedding.encoder import ImageEncoder
from pipelines.embedding.options import EmbedConfig
from pipelines.selection.contamination import EvaluationImages, Match
from pipelines.selection.copies import thumbnail
from pipelines.selection.evaluation import embed_unit, stage_name
from shards.images import decode_image
from shards.sources.evaluation import open_evaluation
from toyworld.demo import MODELS

PHOTOGRAPH = 128
"""Pixels of a photograph's side."""


class Finder:
    """Asks of pictures whether they are copies, with evaluation images in a work folder.

    Args:
        work: an empty folder.
        images: the evaluation images.
    """

    def __init__(self, work: Path, images: Sequence[bytes]) -> None:
        (work / "images").mkdir()
        for number, data in enumerate(images):
            (work / "images" / f"{number:05d}.jpg").write_bytes(data)
        config = EmbedConfig(str(MODELS / "clip"), batch=64)
        self._encoder = ImageEncoder(config.encoder)
        machine = Machine(device="cpu", model_threads=1, decode_threads=2)
        parts = [
            embed_unit(unit, stage_name(0), str(work), self._encoder, config, machine)
            for unit in open_evaluation(str(work / "images")).units
        ]
        self._images = EvaluationImages(str(work), parts)
        self.looked = 0
        self.seconds = 0.0

    def copies(self, pictures: Sequence[bytes]) -> list[Match | None]:
        """What each picture is a copy of."""
        decoded = [decode_image(data)[0] for data in pictures]
        vectors = self._encoder.embed([self._encoder.prepare(image) for image in decoded])
        began = time.perf_counter()
        proposals = self._images.proposals(vectors.astype(np.float32))
        found = [
            self._images.copy_among(proposed, thumbnail(image)) if proposed else None
            for proposed, image in zip(proposals, decoded, strict=True)
        ]
        self.seconds += time.perf_counter() - began
        self.looked += len(found)
        return found


def measure(finder: Finder, images: Sequence[bytes], others: dict[str, list[bytes]]) -> Any:
    """Share of the copies of each kind that is found, and of each sort of others that is taken."""
    rng = np.random.default_rng(17)
    decoded = [decode_image(data)[0] for data in images]
    found: dict[str, Any] = {"found": {}, "taken": {}}
    for kind in KINDS:
        matches = finder.copies([copy_of(image, kind, rng) for image in decoded])
        names = [match and match.name.rpartition(" ")[2] for match in matches]
        right = sum(name == f"{number:05d}.jpg" for number, name in enumerate(names))
        found["found"][", ".join(kind)] = round(sum(map(bool, names)) / len(images), 4)
        found["named"] = found.get("named", 0) + right
    for name, pictures in others.items():
        taken = sum(map(bool, finder.copies(pictures)))
        found["taken"][name] = round(taken / len(pictures), 4)
    copies = list(found["found"].values())
    hits, wrong = sum(copies) * len(images), sum(found["taken"].values()) * len(images)
    found["recall"] = round(sum(copies) / len(copies), 4)
    found["precision"] = round(hits / max(hits + wrong, 1), 4)
    found["named"] = round(found["named"] / max(hits, 1), 4)
    return found


def toy(number: int) -> tuple[list[bytes], dict[str, list[bytes]]]:
    """Evaluation images and others of the toy world."""
    own = scenes(number, 1)
    rng = np.random.default_rng(23)
    others = {
        "another scene": [pictured(scene) for scene in scenes(number, 2)],
        "same class, colour, background": [pictured(others_like(s, SIMILAR, rng)) for s in own],
        "twin": [pictured(others_like(s, TWIN, rng)) for s in own],
    }
    return [pictured(scene) for scene in own], others


def spectra(number: int) -> tuple[list[bytes], dict[str, list[bytes]]]:
    """The same of pictures with the spectrum of photographs."""
    other = photographs(number, PHOTOGRAPH, first=number)
    return photographs(number, PHOTOGRAPH), {"another picture": other}


WORLDS: dict[str, Callable[[int], tuple[list[bytes], dict[str, list[bytes]]]]] = {
    "toy world": toy,
    "spectrum of photographs": spectra,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("copies of evaluation images in a pool", samples=400, rounds=None)
    arguments = options.parse_args(argv)
    results: dict[str, Any] = {}
    rows: list[tuple[str, ...]] = []
    for world, make in WORLDS.items():
        images, others = make(arguments.samples)
        with tempfile.TemporaryDirectory() as work:
            finder = Finder(Path(work), images)
            found = measure(finder, images, others)
        found["milliseconds"] = round(1000 * finder.seconds / finder.looked, 1)
        results[world] = found
        rows += [(f"{world}: {kind}", "found", f"{s:.1%}") for kind, s in found["found"].items()]
        rows.append((f"{world}: all copies", "found", f"{found['recall']:.1%}"))
        rows += [(f"{world}: {name}", "taken", f"{s:.2%}") for name, s in found["taken"].items()]
        rows.append((f"{world}: all", "precision", f"{found['precision']:.1%}"))
        rows.append((f"{world}: a picture takes", "", f"{found['milliseconds']:.0f} ms"))
    body = {"conditions": conditions(samples=arguments.samples), "results": results}
    report(body, ("pictures", "", "share"), rows, arguments.output)


if __name__ == "__main__":
    main()
