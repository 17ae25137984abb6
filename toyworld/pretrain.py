"""Pretraining of the two committed models, once, on pictures of a stream that nothing else uses.

``python -m toyworld pretrain`` renders the pictures, trains both models from scratch and writes
their folders with ``figures.json``: what was done and how well the models do on fresh pictures.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from toyworld.architecture import (
    CONTEXT,
    DEC,
    PAD,
    new_blip,
    new_clip,
    new_tokenizer,
    write_blip,
    write_clip,
)
from toyworld.corpus import (
    CHECK,
    CHECK_PHOTOS,
    FACTORS,
    PRETRAIN,
    Corpus,
    make_corpus,
    pixels,
    tokens,
)
from toyworld.vocabulary import CLASSES, DOMAINS, SEEN, TEMPLATES, UNSEEN
from trainer.objective.contrastive import contrastive_loss

_SHIFT = 2
_DOMAIN = list(FACTORS).index("domain")


def pretrain(
    output: Path,
    *,
    images: int,
    clip_epochs: float,
    blip_epochs: float,
    checks: int = 4000,
    only: str | None = None,
) -> None:
    """Make the corpus, pretrain the models (or ``only`` one) and write their folders.

    Args:
        output: folder of the model folders and of figures.json.
        images: pictures to render, a multiple of 1,000.
        clip_epochs, blip_epochs: passes over them; each pass moves and lights them afresh.
        checks: fresh pictures that the figures are measured on, a multiple of 1,000.
        only: ``clip`` or ``blip``; the other folder and its figures stay as they are.
    """
    corpus = make_corpus(images, PRETRAIN)
    file = output / "figures.json"
    figures = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if only != "blip":
        model = pretrain_clip(corpus, clip_epochs)
        write_clip(output / "clip", model)
        zero_shot = clip_figures(model, make_corpus(checks, CHECK))
        figures["clip"] = {"images": images, "epochs": clip_epochs, "zero_shot": zero_shot}
    if only != "clip":
        model = pretrain_blip(corpus, blip_epochs)
        write_blip(output / "blip", model)
        named = blip_figures(model, make_corpus(checks, CHECK_PHOTOS))
        figures["blip"] = {"images": images, "epochs": blip_epochs, "photos_named": named}
    file.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))


def pretrain_clip(corpus: Corpus, epochs: float, batch: int = 256, lr: float = 2e-3) -> Any:
    """CLIP's objective on pictures and alt texts; bf16 autocast."""
    model = new_clip(len(new_tokenizer()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    rng = torch.Generator().manual_seed(1)
    losses: list[float] = []
    model.train()
    for chosen in _steps("clip", len(corpus.images), batch, epochs, optimizer, lr, losses):
        with torch.autocast("cpu", torch.bfloat16):
            image = model.encode_image(_shifted(corpus.images[chosen], rng), normalize=True)
            text = model.encode_text(corpus.alt_texts[chosen], normalize=True)
        loss = contrastive_loss(image.float(), text.float(), model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval()


def pretrain_blip(corpus: Corpus, epochs: float, batch: int = 128, lr: float = 1.5e-3) -> Any:
    """Captions, with the factors as a second task so that the small ViT learns shapes; bf16."""
    model = new_blip(len(new_tokenizer()))
    width = model.config.vision_config.hidden_size
    heads = torch.nn.ModuleList(torch.nn.Linear(width, len(v)) for v in FACTORS.values())
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    rng = torch.Generator().manual_seed(1)
    coloured = torch.tensor([domain != "sketch" for domain in DOMAINS])
    losses: list[float] = []
    model.train()
    for chosen in _steps("blip", len(corpus.images), batch, epochs, optimizer, lr, losses):
        factors = corpus.factors[chosen]
        texts = corpus.captions[chosen]
        texts = texts[:, : int((texts != PAD).sum(dim=1).max())]
        labels = texts.masked_fill(texts == PAD, -100)
        inputs = texts.clone()
        inputs[:, 0] = DEC
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.vision_model(pixel_values=_shifted(corpus.images[chosen], rng))[0]
            guesses = [head(seen[:, 1:].mean(dim=1)) for head in heads]
            logits = model.text_decoder(
                input_ids=inputs, encoder_hidden_states=seen, use_cache=False
            ).logits
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        shown = coloured[factors[:, _DOMAIN]]
        for factor, guess, truth in zip(FACTORS, guesses, factors.T, strict=True):
            rows = shown if factor in ("colour", "background") else torch.ones_like(shown)
            loss = loss + 0.3 * F.cross_entropy(guess.float()[rows], truth[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model.eval()


def _steps(
    what: str,
    size: int,
    batch: int,
    epochs: float,
    optimizer: torch.optim.Optimizer,
    lr: float,
    losses: list[float],
) -> Iterator[torch.Tensor]:
    """Index batches over shuffled epochs, with warm-up and cosine, and a line of progress.

    The caller appends each step's loss to ``losses``.
    """
    rng = torch.Generator().manual_seed(0)
    total = int(epochs * size / batch)
    order = torch.empty(0, dtype=torch.int64)
    began = perf_counter()
    for step in range(total):
        if len(order) < batch:
            order = torch.randperm(size, generator=rng)
        chosen, order = order[:batch], order[batch:]
        warm = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))
        yield chosen
        if step % 200 == 199 or step == total - 1:
            rate = (step + 1) * batch / (perf_counter() - began)
            loss = float(np.mean(losses[-200:]))
            place = f"step {step + 1}/{total}"
            print(f"{what}: {place}, loss {loss:.3f}, {rate:,.0f} images/s", flush=True)


def _shifted(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Every picture moved by up to two pixels and made a little lighter or darker."""
    n, _, side, _ = images.shape
    padded = F.pad(images.float(), [_SHIFT] * 4, mode="replicate")
    start = torch.randint(0, 2 * _SHIFT + 1, (n, 2), generator=rng)
    rows = (start[:, :1] + torch.arange(side))[:, None, :, None]
    columns = (start[:, 1:] + torch.arange(side))[:, None, None, :]
    picture, channel = torch.arange(n)[:, None, None, None], torch.arange(3)[:, None, None]
    moved = padded[picture, channel, rows, columns]
    light = 0.85 + 0.3 * torch.rand(n, 1, 1, 1, generator=rng)
    return pixels((moved * light).clamp(0, 255))


def clip_figures(model: Any, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Zero-shot top-1 in percent: domain to set of classes, each set among itself."""
    figures = {}
    for number, domain in enumerate(DOMAINS):
        part = corpus.where(corpus.factors[:, _DOMAIN] == number)
        figures[domain] = {
            name: zero_shot_accuracy(model, part, classes)
            for name, classes in (("seen", SEEN), ("unseen", UNSEEN), ("all", CLASSES))
        }
    return figures


@torch.inference_mode()
def zero_shot_accuracy(model: Any, corpus: Corpus, classes: tuple[str, ...]) -> float:
    """Top-1 in percent on the corpus's pictures of ``classes``, among them."""
    head = []
    for name in classes:
        texts = tokens([template.replace("{c}", name) for template in TEMPLATES])
        head.append(F.normalize(model.encode_text(texts, normalize=True).mean(dim=0), dim=0))
    wanted = torch.tensor([CLASSES.index(name) for name in classes])
    part = corpus.where(torch.isin(corpus.factors[:, 0], wanted))
    images = pixels(part.images).split(500)
    features = torch.cat([model.encode_image(some, normalize=True) for some in images])
    guess = wanted[(features @ torch.stack(head).T).argmax(dim=1)]
    return round(100 * float((guess == part.factors[:, 0]).float().mean()), 1)


@torch.inference_mode()
def blip_figures(model: Any, corpus: Corpus) -> dict[str, float]:
    """How often a greedy caption names the right class, and the right colour, in percent."""
    tokenizer = new_tokenizer()
    right = {"name": 0, "colour": 0}
    for images, factors in zip(corpus.images.split(250), corpus.factors.split(250), strict=True):
        output = model.generate(pixel_values=pixels(images), max_new_tokens=CONTEXT - 2)
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        for text, row in zip(texts, factors, strict=True):
            words = re.findall(r"[a-z]+", text)
            for column, factor in enumerate(right):
                named = [word for word in words if word in FACTORS[factor]]
                right[factor] += named == [FACTORS[factor][int(row[column])]]
    return {
        {"name": "class"}.get(factor, factor): round(100 * number / len(corpus.images), 1)
        for factor, number in right.items()
    }
