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
from trainer.loop import Plan, run_loop, train_step
from trainer.loss import MAX_LOG_SCALE, Weights
from trainer.metrics import BadSamples, MetricsFile, read_metrics
from trainer.optim import make_optimizer

PLAN = Plan(steps_per_epoch=2, total=2, warmup=0, lr=1e-3, weights=Weights(tc=0, itp=0))


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
    nothing = torch.empty(0, dtype=torch.int64)
    return Batch(
        images=torch.randn(rows, 3, 32, 32, generator=random),
        classes=torch.arange(rows),
        class_texts=torch.randint(5, 15, (rows, 12), generator=random),
        captions=nothing,
        caption_rows=nothing,
        anchor_images=torch.empty(0),
        anchor_texts=nothing,
    )


def test_what_the_towers_drop_depends_on_the_step_alone() -> None:
    def loss(step: int, noise: int) -> float:
        torch.manual_seed(noise)
        model = dropping_model()
        optimizer = make_optimizer(model, OptimConfig())
        return float(train_step(model, optimizer, batch(), PLAN, step).total.detach())

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
    train_step(clip.model, make_optimizer(clip.model, OptimConfig()), batch(), PLAN, 0)
    assert float(clip.model.logit_scale.detach()) <= MAX_LOG_SCALE + 1e-6


def test_a_loss_that_is_no_number_ends_the_run(clip: Clip, tmp_path: Path) -> None:
    with torch.no_grad():
        next(clip.model.visual.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="the loss is nan at step 2; lower --lr"):
        run_loop(
            clip.model,
            make_optimizer(clip.model, OptimConfig()),
            [batch(), batch()],
            PLAN,
            start=0,
            device=torch.device("cpu"),
            folder=tmp_path,
            bad=BadSamples(0.01, {"finetune": 10}),
        )
    assert not (tmp_path / "state").exists()


def test_a_batch_of_which_nothing_is_left_moves_nothing(clip: Clip, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    bad = BadSamples(1.0, {"finetune": 4})
    left_out = [("finetune", f"{i}.jpg", "empty_file", "no bytes") for i in range(2)]
    empty = Batch(**{**vars(batch()), "images": torch.empty(0), "bad": tuple(left_out)})
    optimizer = make_optimizer(clip.model, OptimConfig())
    device = torch.device("cpu")
    run_loop(
        clip.model, optimizer, [empty, empty], PLAN,
        start=0, device=device, folder=tmp_path, bad=bad,
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
