"""The embed and caption stages against the bare model loop on images that are decoded already.

    python -m benchmarks.stage_speed

Ours is the stage as a build runs it, on Beam's direct runner: the tars or files are read,
fingerprinted and decoded, and the part is written. The bare loop has its batches ready in memory
and does nothing but the model's forward passes (for captions, transformers' own ``generate``), with
the same batch and threads. Both have their model loaded. The weights are random: the encoder is
ViT-B/32, the captioner BLIP with a ViT-B/32 before its text decoder of BERT-base's size.
"""

from __future__ import annotations

import copy
import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import models  # noqa: F401  (before open_clip: it makes torchvision importable)

# isort: split
import apache_beam as beam
import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
)

from benchmarks.contest import FIGURES, conditions, contest, figures, parser, report
from benchmarks.made import photograph
from benchmarks.random_clip import write_clip
from models.clip import load_clip
from pipelines.captioning.caption import Caption
from pipelines.captioning.decoding import Decoding
from pipelines.captioning.options import CaptionConfig
from pipelines.config import Machine
from pipelines.embedding.embed import POOL, Embed
from pipelines.embedding.options import EmbedConfig
from pipelines.units import ReadUnits, write_units
from shards.images import decode_image
from shards.sources import Source, open_labelled, open_pool

WORDS = Path(__file__).parent.parent / "toyworld" / "models" / "blip"
PER_TAR = 256
_TOKENS = 12


def write_blip(folder: Path, layers: int, width: int) -> None:
    """A captioner with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(WORDS)
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }
    text = shape | {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": width,
        "bos_token_id": tokenizer.cls_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "max_position_embeddings": 64,
    }
    vision = shape | {"image_size": 224, "patch_size": 32}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(WORDS, backend="pil")
    processor.size = {"height": 224, "width": 224}
    processor.save_pretrained(folder)


def write_pool(root: Path, images: Sequence[bytes]) -> Source:
    """Pairs in tars, as img2dataset writes them."""
    root.mkdir()
    for first in range(0, len(images), PER_TAR):
        with tarfile.open(root / f"{first // PER_TAR:05d}.tar", "w") as tar:
            for i, image in enumerate(images[first : first + PER_TAR], first):
                for extension, data in (("jpg", image), ("txt", f"picture {i}".encode())):
                    info = tarfile.TarInfo(f"{i:09d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
    return open_pool(str(root))


def write_finetune(root: Path, images: Sequence[bytes]) -> Source:
    """An image folder of two classes."""
    for i, image in enumerate(images):
        folder = root / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:06d}.jpg").write_bytes(image)
    return open_labelled(str(root))


def stage(work: Path, source: Source, step: beam.PTransform) -> Callable[[], None]:
    """The stage over all units of a source, its model loaded."""
    units = write_units(str(work), "units", source)
    # Runs share the model while one of the step's copies holds it; Beam alone would load it anew.
    held = copy.copy(step._do)
    held.setup()

    def run() -> None:
        with beam.Pipeline() as root:
            root | ReadUnits(units) | step
        assert held is not None

    return run


def batches_of(images: Sequence[torch.Tensor], batch: int) -> list[torch.Tensor]:
    """All images, in batches [B, 3, H, W]."""
    return [torch.stack(list(images[i : i + batch])) for i in range(0, len(images), batch)]


def embedding(
    folder: Path, images: Sequence[bytes], batch: int, machine: Machine, name: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The embed stage, and the bare loop."""
    encoder = folder / "encoder"
    write_clip(encoder, name)
    step = Embed(
        POOL,
        work=str(folder),
        classes=None,
        config=EmbedConfig(str(encoder), batch),
        machine=machine,
        force=True,
    )
    clip = load_clip(str(encoder))
    ready = batches_of([clip.preprocess(decode_image(data)[0]) for data in images], batch)

    @torch.inference_mode()
    def bare() -> None:
        for pixels in ready:
            clip.model.encode_image(pixels)  # type: ignore[operator]

    return stage(folder, write_pool(folder / "pool", images), step), bare


def captioning(
    folder: Path, images: Sequence[bytes], batch: int, machine: Machine, layers: int, width: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The caption stage, and the bare loop; greedy, always the same number of tokens."""
    captioner = folder / "captioner"
    write_blip(captioner, layers, width)
    source = write_finetune(folder / "finetune", images)
    step = Caption(
        work=str(folder),
        classes=source.classes,
        config=CaptionConfig(
            str(captioner), Decoding(max_new_tokens=_TOKENS, min_new_tokens=_TOKENS), batch
        ),
        machine=machine,
        force=True,
    )
    model = BlipForConditionalGeneration.from_pretrained(captioner).eval()
    processor = AutoImageProcessor.from_pretrained(captioner, backend="pil")
    decoded = [decode_image(data)[0] for data in images]
    ready = batches_of(
        [processor(images=one, return_tensors="pt")["pixel_values"][0] for one in decoded], batch
    )

    @torch.inference_mode()
    def bare() -> None:
        for pixels in ready:
            model.generate(pixel_values=pixels, max_new_tokens=_TOKENS, min_new_tokens=_TOKENS)

    return stage(folder, source, step), bare


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("the embed and caption stages over the bare model loop", samples=512, rounds=5)
    options.add_argument("--batch", type=int, default=32, help="(%(default)s)")
    options.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of torch, both sides (%(default)s)"
    )
    options.add_argument(
        "--decode_threads", type=int, default=2, help="of the stages (%(default)s)"
    )
    options.add_argument("--encoder", default="ViT-B-32", help="of open_clip's (%(default)s)")
    options.add_argument("--layers", type=int, default=12, help="of the captioner (%(default)s)")
    options.add_argument("--width", type=int, default=768, help="of the captioner (%(default)s)")
    arguments = options.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    machine = Machine("cpu", arguments.threads, arguments.decode_threads)
    images = [photograph(i) for i in range(arguments.samples)]
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for what, (ours, bare) in {
            "embed": embedding(Path(name), images, arguments.batch, machine, arguments.encoder),
            "caption": captioning(
                Path(name), images, arguments.batch, machine, arguments.layers, arguments.width
            ),
        }.items():
            results[what] = contest(ours, bare, arguments.rounds)
    body = {
        "conditions": conditions(
            samples=arguments.samples,
            batch=arguments.batch,
            threads=arguments.threads,
            decode_threads=arguments.decode_threads,
            encoder=arguments.encoder,
            captioner=f"BLIP, {arguments.layers} layers, width {arguments.width}",
            torch=torch.__version__,
            rounds=arguments.rounds,
        ),
        "results": results,
    }
    report(body, ("bare loop's time / ours", *FIGURES), figures(results), arguments.output)


if __name__ == "__main__":
    main()
