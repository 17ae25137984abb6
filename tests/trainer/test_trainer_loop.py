"""One step at a time: what it draws, what it bounds, what it refuses."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from models.clip import Clip
from schemas.errors import UserError
from trainer.config import OptimConfig
from trainer.data import Batch
from trainer.draws import Stream, draw_seed, generator
from trainer.loop import run_loop
from trainer.methods.method import TOWERS
from trainer.metrics import BadSamples, MetricsFile, read_metrics
from trainer.objective.contrastive import MAX_LOG_SCALE
from trainer.objective.features import Towers
from trainer.objective.terms import Contrastive
from trainer.optim import make_optimizer
from trainer.parallel.processes import World
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Leg, Plan
from trainer.step import train_step

TERMS = (Contrastive("class_text", 1.0, "finetune", "class"),)
LEG = Leg(start=0, stop=2, warmup=0, lr=1e-3, terms=TERMS, trains=TOWERS)
PLAN = Plan(steps_per_epoch=2, legs=(LEG,))
ALONE = World(torch.device("cpu"))


def wrapped(model: torch.nn.Module) -> Wrapped:
    return Wrapped(Towers(model), ALONE)


def dropping_model() -> torch.nn.Module:
    """A small transformer tower that leaves out half of the patches when it trains."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return open_clip.CLIP(
            embed_dim=8,
            vision_cfg=open_clip.CLIPVisionCfg(
                layers=1, width=16, head_width=8, patch_size=8, image_size=32, patch_dropout=0.5
            ),
            text_cfg=open_clip.CLIPTextCfg(
                context_length=12, vocab_size=30, width=16, heads=2, layers=1
            ),
        ).train()


def batch(rows: int = 5) -> Batch:
    random = torch.Generator().manual_seed(3)
    return Batch(
        images={"finetune": torch.randn(rows, 3, 32, 32, generator=random)},
        texts={"class": torch.randint(5, 15, (rows, 12), generator=random)},
        classes=torch.arange(rows),
    )


def test_what_the_towers_drop_depends_on_the_step_alone() -> None:
    def loss(step: int, noise: int) -> float:
        torch.manual_seed(noise)
        model = wrapped(dropping_model())
        optimizer = make_optimizer(model.towers, OptimConfig())
        loss = train_step(model, optimizer, batch(), LEG, PLAN, step)
        assert loss is not None
        return float(loss.total.detach())

    assert loss(0, noise=1) == loss(0, noise=2)
    assert loss(0, noise=1) != loss(1, noise=1)


def test_draws_differ_by_seed_stream_and_what_they_are_for() -> None:
    whats = [
        (seed, stream, epoch, i)
        for seed in (0, 1)
        for stream in (Stream.FINETUNE_CROP, Stream.ANCHOR_CROP)
        for epoch in (0, 1)
        for i in (0, 1)
    ]
    assert len({draw_seed(*what) for what in whats}) == 16
    assert len({int(generator(*what).integers(1 << 60)) for what in whats}) == 16
    assert all(0 <= draw_seed(*what) < 1 << 63 for what in whats)


def test_a_step_keeps_the_scale_within_its_bound(clip: Clip) -> None:
    with torch.no_grad():
        clip.model.logit_scale.fill_(6.0)
    model = wrapped(clip.model)
    train_step(model, make_optimizer(model.towers, OptimConfig()), batch(), LEG, PLAN, 0)
    assert float(clip.model.logit_scale.detach()) <= MAX_LOG_SCALE + 1e-6


def test_a_batch_of_which_nothing_is_left_moves_nothing(clip: Clip, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    bad = BadSamples(1.0, {"finetune": 4})
    left_out = [("finetune", f"{i}.jpg", "empty_file", "no bytes") for i in range(2)]
    whole = batch()
    empty = Batch(
        images={"finetune": whole.images["finetune"][:0]},
        texts={"class": whole.texts["class"][:0]},
        classes=whole.classes[:0],
        bad=tuple(left_out),
    )
    optimizer = make_optimizer(clip.model, OptimConfig())
    run_loop(
        wrapped(clip.model), optimizer, [empty, empty], PLAN,
        start=0, world=ALONE, folder=tmp_path, bad=bad,
    )  # fmt: skip
    assert bad.total == {"finetune/empty_file": 4}
    for name, tensor in clip.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_bad_samples_are_counted_anew_each_epoch() -> None:
    bad = BadSamples(0.1, {"finetune": 20})
    one = ("finetune", "a.jpg", "empty_file", "no bytes")
    for _ in range(3):
        bad.add([one, one])
        bad.end_epoch()
    assert bad.total == {"finetune/empty_file": 6}
    again = BadSamples(0.1, {"finetune": 20})
    again.restore(bad.state())
    assert again == bad
    with pytest.raises(UserError, match="3 of an epoch's 20 finetune images are bad"):
        bad.add([one, one, one])


def test_metrics_forget_what_will_be_done_again_and_a_line_cut_short(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.write({"step": step})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    MetricsFile(tmp_path, 2).close()
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
