"""Two processes are one with twice the batch, and a batch in chunks is the whole batch."""

from __future__ import annotations

import models  # noqa: F401  (before open_clip, also in the processes that import this file)

# isort: split

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from forks import FORKS

from trainer import compiling
from trainer.config import OptimConfig, TrainConfig
from trainer.data import Batch
from trainer.methods.arf import ARF
from trainer.methods.flyp import FLYP
from trainer.methods.method import TOWERS, AnchorWeights, Ingredients
from trainer.metrics import read_metrics
from trainer.objective.contrastive import contrastive_loss
from trainer.objective.features import Towers
from trainer.optim import make_optimizer
from trainer.parallel.gather import gather_rows
from trainer.parallel.processes import World
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Leg, Plan
from trainer.step import train_step
from trainer.train import TrainResult, train

ROOT = Path(__file__).parent.parent.parent
SETS = (AnchorWeights("set", tc=0.5, itp=2.0),)


def transformer() -> torch.nn.Module:
    """A small CLIP whose rows do not depend on each other."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return open_clip.CLIP(
            embed_dim=8,
            vision_cfg=open_clip.CLIPVisionCfg(
                layers=1, width=16, head_width=8, patch_size=8, image_size=16
            ),
            text_cfg=open_clip.CLIPTextCfg(
                context_length=6, vocab_size=30, width=16, heads=2, layers=1
            ),
        )


def batch(rank: int = 0, world: int = 1, captioned: tuple[int, ...] = (0, 2, 3, 6)) -> Batch:
    """Seven finetune images and five pairs, or every ``world``-th of them."""
    random = torch.Generator().manual_seed(3)
    images = torch.randn(7, 3, 16, 16, generator=random)
    pairs = torch.randn(5, 3, 16, 16, generator=random)
    texts = torch.randint(5, 15, (7 + len(captioned) + 5, 6), generator=random)
    own = range(rank, 7, world)
    rows = [own.index(i) for i in captioned if i in own]
    mine = [n for n, i in enumerate(captioned) if i in own]
    return Batch(
        images={"finetune": images[rank::world], "pairs/set": pairs[rank::world]},
        texts={
            "class": texts[:7][rank::world],
            "captions/set": texts[7 : 7 + len(captioned)][mine],
            "pairs/set": texts[7 + len(captioned) :][rank::world],
        },
        classes=(torch.arange(7) % 3)[rank::world],
        rows={"captions/set": torch.tensor(rows, dtype=torch.int64)},
    )


def gradients(
    data: Batch,
    world: World,
    *,
    chunk: int | None = None,
    multi_positive: bool = False,
    compiles: bool = False,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients of ARF's objective in a step, and the values of its terms."""
    model = Wrapped(Towers(transformer()), world)
    if compiles:
        model.towers.compile_encoders(4)
    terms = tuple(ARF.phases[0].terms(Ingredients(SETS, multi_positive)))
    leg = Leg(0, 1, 0, 1e-3, terms, TOWERS)
    model.train_only(TOWERS)
    optimizer = make_optimizer(model.towers, OptimConfig())
    loss = train_step(model, optimizer, data, leg, Plan(1, (leg,), chunk=chunk), 0)
    assert loss is not None
    found = {n: p.grad.clone() for n, p in model.towers.named_parameters() if p.grad is not None}
    return found, {name: float(value.detach()) for name, value in loss.terms.items()}


def close(
    left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=tolerance, atol=tolerance, msg=name)


ALONE = World(torch.device("cpu"))


def together(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Run a function in two processes that meet over gloo; their results by rank."""
    waiting = []
    for rank in range(2):
        receiver, sender = FORKS.Pipe(duplex=False)
        process = FORKS.Process(
            target=_child, args=(work, rank, str(folder / "meet"), sender, arguments)
        )
        process.start()
        sender.close()
        waiting.append((process, receiver))
    found = []
    for process, receiver in waiting:
        with contextlib.suppress(EOFError):
            found.append(receiver.recv())
        process.join()
        assert process.exitcode == 0
    return found


def _child(
    work: Callable[..., Any], rank: int, meet: str, sender: Connection, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    result = work(World(torch.device("cpu"), rank, 2), *arguments)
    sender.send(result)
    dist.destroy_process_group()


def _clip_losses(world: World) -> tuple[list[Any], list[Any]]:
    """Ours and open_clip's over the same features: the loss, and the gradients of the features."""
    random = torch.Generator().manual_seed(9)
    whole = [F.normalize(torch.randn(8, 16, generator=random), dim=-1) for _ in range(2)]
    found = []
    for ours in (True, False):
        own = [part[4 * world.rank : 4 * world.rank + 4].clone().requires_grad_() for part in whole]
        scale = torch.tensor(2.66, requires_grad=True)
        if ours:
            loss = contrastive_loss(*map(gather_rows, own), scale)
        else:
            theirs = open_clip.ClipLoss(
                gather_with_grad=True, rank=world.rank, world_size=world.size
            )
            loss = theirs(*own, scale.exp())
        loss.backward()
        assert scale.grad is not None
        found.append([float(loss.detach()), float(scale.grad), *(p.grad.tolist() for p in own)])
    return found[0], found[1]


CASES: list[tuple[tuple[int, ...], int | None, bool]] = [
    ((0, 2, 3, 6), None, False),
    ((0, 2, 4), None, True),  # only the first process has captions
    ((0, 2, 3, 6), 2, False),
    ((1,), 3, False),
]


def _float16(world: World, chunk: int | None) -> list[Any]:
    """Two steps with a scale that is a little too large for the process with six rows of seven.

    Of each step: whether the process's own gradients overflow, whether the step counts as sound,
    the norm of the common gradient, the scale after it, and the weights.
    """
    whole, own = batch(), slice(0, 1) if world.first else slice(1, 7)
    mine = Batch(
        images={"finetune": whole.images["finetune"][own]},
        texts={"class": whole.texts["class"][own]},
        classes=whole.classes[own],
    )
    model = Wrapped(Towers(transformer()), world)
    model.train_only(TOWERS)
    overflown: list[bool] = []
    for parameter in model.towers.parameters():  # before the gradients are exchanged
        parameter.register_hook(lambda grad: overflown.append(not bool(grad.isfinite().all())))
    leg = Leg(0, 2, 0, 1e-3, tuple(FLYP.phases[0].terms(Ingredients(()))), TOWERS)
    plan = Plan(2, (leg,), precision=torch.float16, chunk=chunk)
    optimizer = make_optimizer(model.towers, OptimConfig())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13)
    found = []
    for step in range(2):
        overflown.clear()
        loss = train_step(model, optimizer, mine, leg, plan, step, world.rank, scaler)
        assert loss is not None
        assert loss.grad_norm is not None
        weights = [parameter.tolist() for parameter in model.towers.parameters()]
        norm = float(loss.grad_norm)
        found.append((any(overflown), bool(loss.finite), norm, scaler.get_scale(), weights))
    return found


def _everything(world: World) -> tuple[Any, list[Any], Any, list[Any]]:
    """The losses, and the gradients of every case; starting a process costs seconds."""
    steps = []
    for captioned, chunk, multi_positive in CASES:
        own = batch(world.rank, world.size, captioned)
        found, values = gradients(own, world, chunk=chunk, multi_positive=multi_positive)
        steps.append(({name: tensor.tolist() for name, tensor in found.items()}, values))
    compiling._backend = lambda graph, _: graph  # type: ignore[assignment]
    traced, _ = gradients(batch(world.rank, world.size), world, compiles=True)
    numbers = {name: tensor.tolist() for name, tensor in traced.items()}
    return _clip_losses(world), steps, numbers, [_float16(world, chunk) for chunk in (None, 2)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two processes found."""
    return together(_everything, tmp_path_factory.mktemp("two"))


def test_the_loss_over_two_processes_is_open_clips_with_its_gradients(two: list[Any]) -> None:
    for (ours, theirs), *_ in two:
        assert ours[:2] == pytest.approx(theirs[:2], abs=1e-6)
        for mine, other in zip(ours[2:], theirs[2:], strict=True):
            torch.testing.assert_close(torch.tensor(mine), torch.tensor(other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_have_the_gradients_of_one(two: list[Any], case: int) -> None:
    captioned, _, multi_positive = CASES[case]
    alone, values = gradients(batch(captioned=captioned), ALONE, multi_positive=multi_positive)
    for _, steps, *_ in two:
        found, theirs = steps[case]
        close({name: torch.tensor(value) for name, value in found.items()}, alone)
        assert theirs == pytest.approx(values, abs=1e-5)


def test_compiled_towers_have_the_gradients_of_one_process_too(two: list[Any]) -> None:
    alone, _ = gradients(batch(), ALONE)
    for _, _, found, _ in two:
        close({name: torch.tensor(value) for name, value in found.items()}, alone)


@pytest.mark.parametrize("case", [0, 1], ids=["whole", "chunks"])
def test_an_overflow_in_one_process_skips_the_step_in_both(two: list[Any], case: int) -> None:
    start = [parameter.tolist() for parameter in Towers(transformer()).parameters()]
    (first, then), (other, other_then) = (floats[case] for *_, floats in two)
    assert (first[0], other[0]) == (False, True)
    for overflown, sound, norm, scale, weights in (first, other):
        assert sound, overflown  # a search for a scale, and no fault
        assert not math.isfinite(norm)
        assert scale == 2.0**12
        assert weights == start
    assert then == other_then
    assert not then[0]
    assert math.isfinite(then[2])
    assert then[3] == 2.0**12
    assert then[4] != start


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_have_the_gradients_of_the_whole(chunk: int) -> None:
    whole, values = gradients(batch(), ALONE)
    cut, same = gradients(batch(), ALONE, chunk=chunk)
    close(cut, whole)
    assert same == pytest.approx(values, abs=1e-5)


def test_chunks_draw_the_same_in_both_passes() -> None:
    def found(noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        model = transformer()
        model.visual.patch_dropout = open_clip.transformer.PatchDropout(0.5)
        towers = Towers(model).train()
        terms = tuple(ARF.phases[0].terms(Ingredients(SETS)))
        leg = Leg(0, 1, 0, 1e-3, terms, TOWERS)
        optimizer = make_optimizer(towers, OptimConfig())
        train_step(Wrapped(towers, ALONE), optimizer, batch(), leg, Plan(1, (leg,), chunk=3), 0)
        return {name: p.detach().clone() for name, p in towers.named_parameters()}

    first, second = found(1), found(2)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_of_two_processes_is_that_of_one(
    config: Callable[..., TrainConfig], anchors: Path, tmp_path: Path, vit_folder: Path
) -> None:
    flags = ("--anchors", str(anchors), "--model", str(vit_folder), "--lr", "1e-4")
    alone: TrainResult = train(config("--output", tmp_path / "alone", *flags))
    words = config("--output", tmp_path / "two", *flags)
    argv = [
        *("--finetune", words.data.finetune, "--output", words.run.output, *flags),
        *("--batch-size", "8", "--epochs", "2", "--warmup", "1", "--workers", "0"),
        *("--device", "cpu", "--templates", "simple", "--log-every", "1"),
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "trainer", *argv],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "6 steps of 8 images, cpu, 2 processes" in done.stderr
    assert done.stderr.count("training: ") == 1
    # Not the weights: where a gradient is nought but for rounding, AdamW follows the rounding.
    histories = [read_metrics(folder) for folder in (tmp_path / "two", alone.output)]
    for two, one in zip(*histories, strict=True):
        for name in ("loss", "class_text", "tc", "itp", "logit_scale"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)
    assert not (tmp_path / "two" / "state").exists()
