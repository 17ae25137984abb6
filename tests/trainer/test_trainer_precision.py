"""Gradient checkpointing: the same gradients for less memory. float16: a loss that is scaled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_trainer_faults import poisoned
from test_trainer_loop import LEG, PLAN, batch, wrapped

from models.clip import Clip, load_clip
from schemas.errors import UserError
from trainer import loop
from trainer.config import OptimConfig
from trainer.metrics import read_metrics
from trainer.optim import make_optimizer
from trainer.prepare import checkpoint_activations
from trainer.step import train_step
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


def _killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = loop.train_step, []

    def dies(*given: Any) -> Any:
        if len(calls) == steps:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given)

    monkeypatch.setattr(loop, "train_step", dies)


@pytest.mark.parametrize("chunk", [(), ("--chunk-size", "3")])
def test_float16_resumes_to_the_bit_with_the_scale_of_its_loss(
    chunk: tuple[str, ...],
    vit_folder: Path,
    tmp_path: Path,
    run: Callable[..., TrainResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return dict(load_file(folder / "open_clip_model.safetensors"))

    def scaler(*_: object) -> torch.amp.GradScaler:  # one that overflows, and grows, in six steps
        return torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)

    monkeypatch.setattr("trainer.train.make_scaler", scaler)
    flags = ("--model", vit_folder, "--precision", "fp16", "--clip-grad", "1", *chunk)
    flags += ("--checkpoint-every", "1", "--epochs", "3")
    whole = run(*flags, "--output", tmp_path / "whole")
    lines = read_metrics(whole.output)
    overflown = [line["grad_norm"] is None for line in lines]
    assert overflown[0]  # the search for a scale
    assert not all(overflown)
    assert all(line["nonfinite"] == 0 for line in lines)
    with monkeypatch.context() as patch:
        _killed_after(4, patch)
        with pytest.raises(KeyboardInterrupt):
            run(*flags, "--output", tmp_path / "cut")
    cut = run(*flags, "--output", tmp_path / "cut")
    one, other, before = weights(whole.output), weights(cut.output), weights(vit_folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], before[name]) for name in one)


@pytest.mark.parametrize(("scale", "sound"), [(2.0, True), (1.0, False), (0.5, False)])
def test_an_overflow_is_a_fault_once_the_scale_is_down_to_one(
    clip: Clip, scale: float, sound: bool
) -> None:
    model = wrapped(clip.model.train())
    optimizer = make_optimizer(model.towers, OptimConfig())
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    clip.model.logit_scale.register_hook(lambda gradient: gradient * torch.inf)
    before = [parameter.detach().clone() for parameter in clip.model.parameters()]
    loss = train_step(model, optimizer, batch(), LEG, PLAN, 0, 0, scaler)
    assert loss is not None
    assert loss.total.isfinite()
    assert loss.grad_norm is not None
    assert not loss.grad_norm.isfinite()
    assert bool(loss.finite) is sound
    assert scaler.get_scale() == scale / 2
    assert all(map(torch.equal, before, clip.model.parameters()))


def test_a_loss_that_is_no_number_is_a_fault_at_any_scale(clip: Clip) -> None:
    model = wrapped(clip.model.train())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = make_optimizer(model.towers, OptimConfig())
    loss = train_step(model, optimizer, poisoned(), LEG, PLAN, 0, 0, scaler)
    assert loss is not None
    assert not loss.finite


def test_tf32_without_a_gpu_is_refused_before_anything_is_written(
    run: Callable[..., TrainResult], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--tf32 is for GPUs, and this run is on cpu"):
        run("--tf32")
    assert not (tmp_path / "run").exists()
