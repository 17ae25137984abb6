"""The schedule's laws, what decays, and that a checkpoint is whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.clip import Clip
from schemas.errors import UserError
from trainer.checkpoint import has_state, load_state, save_state
from trainer.config import OptimConfig
from trainer.objective.contrastive import MAX_LOG_SCALE
from trainer.optim import clamp_logit_scale, learning_rate, make_optimizer, warmup_steps


@given(total=st.integers(2, 400), share=st.floats(0, 0.99), peak=st.floats(1e-7, 1))
def test_schedule_rises_to_the_peak_then_falls_towards_zero(
    total: int, share: float, peak: float
) -> None:
    warmup = int(share * total)
    rates = [learning_rate(t, peak=peak, warmup=warmup, total=total) for t in range(total)]
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(peak)
    if warmup:
        assert rising[0] == pytest.approx(peak / warmup)
        assert rising[-1] == pytest.approx(peak)
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert learning_rate(total, peak=peak, warmup=warmup, total=total) == pytest.approx(0, abs=1e-9)


def test_warmup_is_flyps_unless_the_run_is_short() -> None:
    assert warmup_steps(None, 25_000) == 500
    assert warmup_steps(None, 40) == 4
    assert warmup_steps(0, 40) == 0
    with pytest.raises(UserError, match="--warmup 40 is not less than the 40 steps"):
        warmup_steps(40, 40)


def test_decay_of_matrices_spares_vectors_and_the_scale(clip: Clip) -> None:
    everything = make_optimizer(clip.model, OptimConfig())
    assert [group["weight_decay"] for group in everything.param_groups] == [0.1]
    spared = make_optimizer(clip.model, OptimConfig(decay="matrices"))
    heavy, light = spared.param_groups
    assert (heavy["weight_decay"], light["weight_decay"]) == (0.1, 0)
    assert all(p.ndim >= 2 for p in heavy["params"])
    assert any(p is clip.model.logit_scale for p in light["params"])
    number = len(heavy["params"]) + len(light["params"])
    assert number == len(everything.param_groups[0]["params"])


def _weights_after(
    start: dict[str, torch.Tensor], fused: bool, steps: int, stop: int
) -> list[torch.Tensor]:
    """A small model's weights after ``steps`` updates, the optimiser made anew at ``stop``."""
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
    model.load_state_dict(start)
    optimizer = make_optimizer(model, OptimConfig(lr=0.01, fused=fused))
    inputs = torch.randn(steps, 4, 7, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        if step == stop:
            state = optimizer.state_dict()
            optimizer = make_optimizer(model, OptimConfig(lr=0.01, fused=fused))
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        model(inputs[step]).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_a_fused_update_is_the_plain_one_up_to_rounding_and_resumes_to_the_bit() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = _weights_after(start, True, 6, stop=-1)
    assert all(map(torch.equal, whole, _weights_after(start, True, 6, stop=3)))
    plain = _weights_after(start, False, 6, stop=-1)
    for one, other in zip(whole, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert make_optimizer(model, OptimConfig()).defaults["fused"] is True
    assert make_optimizer(model, OptimConfig(fused=False)).defaults["fused"] is None


def test_the_logit_scale_is_brought_back_to_its_bound(clip: Clip) -> None:
    with torch.no_grad():
        clip.model.logit_scale.fill_(7.0)
    clamp_logit_scale(clip.model)
    assert float(clip.model.logit_scale.detach()) == pytest.approx(MAX_LOG_SCALE)
    assert math.exp(MAX_LOG_SCALE) == pytest.approx(100)


def test_load_state_restores_what_save_state_saved(tmp_path: Path) -> None:
    def make(seed: int) -> tuple[torch.nn.Module, torch.optim.AdamW]:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        return model, make_optimizer(model, OptimConfig(lr=0.1))

    def step(model: torch.nn.Module, optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        model(torch.arange(15.0).reshape(5, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = make(1)
    parts = {"model": model, "optimizer": optimizer}
    assert load_state(tmp_path, parts) is None
    for number in (1, 2):
        step(model, optimizer)
        save_state(tmp_path, number, parts, {"note": number})
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000002.safetensors"]
    assert has_state(tmp_path)
    other, other_optimizer = make(2)
    others = {"model": other, "optimizer": other_optimizer}
    assert load_state(tmp_path, others) == {"step": 2, "note": 2}
    step(model, optimizer)
    step(other, other_optimizer)
    for left, right in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right)
