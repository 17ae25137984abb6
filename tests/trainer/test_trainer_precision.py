"""Gradient checkpointing: the same gradients for less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.clip import Clip, load_clip
from schemas.errors import UserError
from trainer.prepare import checkpoint_activations
from trainer.train import TrainResult


def _gradients(clip: Clip) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients by parameter, and how often the image tower's first block ran."""
    calls = []
    clip.model.visual.transformer.resblocks[0].ln_1.register_forward_pre_hook(
        lambda *_: calls.append(1)
    )
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    texts = clip.tokenizer(["a cat", "a dog", "a photo of a bird"])
    clip.model.train()
    torch.manual_seed(3)  # dropout, where a tower has one
    (clip.model.encode_image(images) @ clip.model.encode_text(texts).T).square().mean().backward()
    found = {n: p.grad for n, p in clip.model.named_parameters() if p.grad is not None}
    return found, len(calls)


def test_checkpointed_gradients_are_the_plain_ones(vit_folder: Path) -> None:
    plain, once = _gradients(load_clip(str(vit_folder)))
    clip = load_clip(str(vit_folder))
    checkpoint_activations(clip.model)
    again, twice = _gradients(clip)
    assert (once, twice) == (1, 2)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-6, atol=1e-8)


def test_checkpointing_batch_normalisation_is_refused(run: Callable[..., TrainResult]) -> None:
    with pytest.raises(UserError, match="--grad-checkpointing needs a model without batch norm"):
        run("--grad-checkpointing")
