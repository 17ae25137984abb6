"""Teachers, the distillation from them, and averages of the weights."""

from __future__ import annotations

import models  # noqa: F401  (before open_clip, also in the processes that import this file)

# isort: split

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_trainer_parallel import ALONE, SETS, batch, together, transformer
from test_trainer_run import interrupt, same, weights

from models.clip import load_clip
from schemas.errors import UserError
from trainer.averages import Average
from trainer.config import OptimConfig, TeacherConfig, TrainConfig
from trainer.data import Batch
from trainer.data_sets import open_data_sets
from trainer.dry_run import dry_run
from trainer.evaluate import evaluate_all
from trainer.methods.arf import ARF
from trainer.methods.method import TOWERS, Ingredients
from trainer.metrics import MEASURED, read_metrics
from trainer.objective.distill import Distill, distill_terms
from trainer.objective.features import Feature, Towers
from trainer.optim import make_optimizer
from trainer.parallel.processes import World
from trainer.parallel.wrapped import Wrapped
from trainer.plan import Leg, Plan
from trainer.step import train_step
from trainer.teachers.teacher import BetaKernel, make_teacher
from trainer.train import TrainResult, train

Config = Callable[..., TrainConfig]
Run = Callable[..., TrainResult]


def with_teacher() -> Towers:
    """Towers that learn from others: weights and scale are not theirs."""
    towers = Towers(transformer())
    teacher = towers.copy()
    random = torch.Generator().manual_seed(11)
    for parameter in teacher.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    towers.learn_from(teacher)
    return towers


def gradients(
    data: Batch, world: World, chunk: int | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients of a step of ARF with distillation, and the values of its terms."""
    model = Wrapped(with_teacher(), world)
    terms = ARF.phases[0].terms(Ingredients(SETS))
    distilled = distill_terms(terms, on="auto", weight=3.0, temperature=2.0)
    leg = Leg(0, 1, 0, 1e-3, (*terms, *distilled), TOWERS)
    model.train_only(TOWERS)
    optimizer = make_optimizer(model.towers, OptimConfig())
    loss = train_step(model, optimizer, data, leg, Plan(1, (leg,), chunk=chunk), 0)
    assert loss is not None
    found = {n: p.grad.clone() for n, p in model.towers.named_parameters() if p.grad is not None}
    return found, {name: float(value.detach()) for name, value in loss.terms.items()}


def close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """To 1e-5 of the largest gradient of each tensor; these are in the hundreds."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        most = max(1.0, float(right[name].abs().max()))
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=1e-5 * most, msg=name)


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    return gradients(batch(), ALONE)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_have_the_gradients_of_the_whole(whole: Any, chunk: int) -> None:
    cut, values = gradients(batch(), ALONE, chunk)
    close(cut, whole[0])
    assert values == pytest.approx(whole[1], abs=1e-5)
    assert min(values["distill/class_text"], values["distill/itp"]) > 1e-3


def _in_two(world: World) -> list[Any]:
    found: list[Any] = []
    for chunk in (None, 2):
        own, values = gradients(batch(world.rank, world.size), world, chunk)
        found.append(({name: tensor.tolist() for name, tensor in own.items()}, values))
    statistics = torch.nn.BatchNorm1d(2)
    average = Average(Towers(statistics), decay=0.5)
    assert statistics.running_mean is not None
    statistics.running_mean += 1 + world.rank
    average.follow(Towers(statistics), 1)
    return [*found, average.towers.model.running_mean.tolist()]


def test_two_processes_have_the_gradients_and_the_average_of_one(
    whole: Any, tmp_path: Path
) -> None:
    for *steps, statistics in together(_in_two, tmp_path):
        for found, values in steps:
            close({name: torch.tensor(value) for name, value in found.items()}, whole[0])
            assert values == pytest.approx(whole[1], abs=1e-5)
        assert statistics == [0.5, 0.5]  # the first process's


def test_distillation_is_the_divergence_of_student_from_teacher() -> None:
    data, towers = batch(), with_teacher()
    term = Distill("distill", 1.0, "pairs/set", "pairs/set", temperature=3.0)
    assert towers.teacher is not None
    features, logits = {}, []
    for teacher, model in ((False, towers), (True, towers.teacher)):
        own = [Feature("image", "pairs/set", teacher), Feature("text", "pairs/set", teacher)]
        found = [model.encode(feature, feature.inputs(data)) for feature in own]
        features |= dict(zip(own, found, strict=True))
        logits.append((model.model.logit_scale.exp() * found[0] @ found[1].T / 3).detach().double())
    value = term(features, data, towers, lambda rows: rows)
    expected = 0.0
    for student, teacher in (logits, [one.T for one in logits]):
        p, q = F.softmax(teacher, dim=1), F.softmax(student, dim=1)
        expected += float((p * (p / q).log()).sum(dim=1).mean()) / 2
    assert value is not None
    assert float(value.detach()) == pytest.approx(9 * expected, rel=1e-4)
    assert expected > 1e-3
    value.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in towers.teacher.parameters())


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 6), st.floats(0.2, 6), st.integers(1, 12), st.integers(0, 99))
def test_the_weighted_average_is_the_explicit_one(
    a: float, b: float, total: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(total + 1, 6, generator=random)
    towers = Towers(torch.nn.Linear(5, 1))
    vector = torch.nn.utils.parameters_to_vector
    torch.nn.utils.vector_to_parameters(points[0], towers.parameters())
    teacher = make_teacher(TeacherConfig("wma", teacher_beta=(a, b)), towers, total)
    assert teacher is not None
    assert teacher.average is not None
    places = (np.arange(total + 1) + 0.5) / (total + 1)
    density = torch.tensor(places ** (a - 1) * (1 - places) ** (b - 1))
    for done in range(1, total + 1):
        torch.nn.utils.vector_to_parameters(points[done].clone(), towers.parameters())
        teacher.average.follow(towers, done)
        so_far = density[: done + 1]
        mean = (so_far[:, None] * points[: done + 1]).sum(0) / so_far.sum()
        found = vector(teacher.towers.parameters()).double()
        torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-5)


def test_a_narrow_kernel_is_no_division_by_nought() -> None:
    total = 2000
    kernel = BetaKernel(900.0, 900.0, total)
    assert math.exp(kernel.log_weight(0)) == 0
    towers = Towers(torch.nn.Linear(1, 1, bias=False))
    average = Average(towers, kernel=kernel)
    for done in range(1, total + 1):
        torch.nn.init.constant_(towers.model.weight, done / total)
        average.follow(towers, done)
    assert float(average.towers.model.weight) == pytest.approx(0.5, abs=1e-3)


def test_an_average_of_what_does_not_move_is_that_and_counts_are_copied() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    mask = torch.full((2, 2), -math.inf)
    model.register_buffer("mask", mask, persistent=False)
    towers = Towers(model)
    average = Average(towers, decay=0.9)
    for done in range(1, 4):
        average.follow(towers, done)
    assert same(average.towers.state_dict(), towers.state_dict())
    model[1].running_mean += 1.0  # type: ignore[operator]
    model[1].num_batches_tracked += 7  # type: ignore[operator]
    average.follow(towers, 4)
    found = average.towers.model
    torch.testing.assert_close(found[1].running_mean, torch.full((2,), 0.1))
    assert int(found[1].num_batches_tracked) == 7
    assert torch.equal(found.mask, mask)
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())


def history(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in x.items() if k not in MEASURED} for x in read_metrics(folder)]


@pytest.mark.parametrize(
    ("kind", "more"),
    [("frozen", ()), ("ema", ("--teacher-decay", "0.5")), ("wma", ("--ema", "0.9"))],
)
def test_a_run_with_a_teacher_resumes_to_the_same_bits(
    config: Config,
    anchors: Path,
    vit_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    more: tuple[str, ...],
) -> None:
    flags = ["--anchors", anchors, "--teacher", kind, "--checkpoint-every", "1", *more]
    flags += [] if kind == "wma" else ["--model", vit_folder]  # wma: with batch normalisation
    flags += ["--distill-weight", "2"]
    straight = train(config("--output", tmp_path / "straight", *flags))
    cut = config("--output", tmp_path / "cut", *flags)
    interrupt(lambda: train(cut), 4, monkeypatch)
    train(cut)
    assert same(weights(straight.output), weights(tmp_path / "cut"))
    lines = history(straight.output)
    assert lines == history(tmp_path / "cut")
    for line in lines:
        distilled = line["distill/class_text"] + line["distill/itp"]
        parts = line["class_text"] + line["tc"] + line["itp"] + 2 * distilled
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    if kind != "wma":  # the teacher begins as the model, to the last bits of its logits
        assert abs(lines[0]["distill/class_text"]) < 1e-6
        assert abs(lines[0]["distill/itp"]) < 1e-6
    assert min(lines[-1]["distill/class_text"], lines[-1]["distill/itp"]) > 1e-5
    told = json.loads((straight.output / "config.json").read_text())["resolved"]
    assert told["teacher"]["kind"] == kind
    assert told["teacher"].get("beta") == ([0.5, 0.5] if kind == "wma" else None)
    assert told["weights"]["kind"] == ("ema" if kind == "wma" else "last")


def test_the_model_that_is_measured_and_left_is_the_average(
    config: Config, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--epochs", "1", "--eval-id", f"seen={images}", "--keep-last", "9")
    plain = train(config("--output", tmp_path / "plain", *flags))
    averaged = config("--output", tmp_path / "ema", *flags, "--ema", "0.7", "--checkpoint-every", 1)
    interrupt(lambda: train(averaged), 2, monkeypatch)
    start = weights(Path(averaged.run.model))
    first, second = (load_file(f) for f in sorted((tmp_path / "ema" / "state").iterdir()))
    result = train(averaged)
    left, last = weights(result.output), weights(plain.output)
    assert history(result.output) == history(plain.output)  # it changes nothing in the training
    for name in (name for name, tensor in last.items() if tensor.is_floating_point()):
        key = f"model.model.{name}"
        points = (start[name], first[key], second[key], last[name])
        mean = sum(w * p for w, p in zip((0.343, 0.147, 0.21, 0.3), points, strict=True))
        torch.testing.assert_close(left[name], mean, rtol=1e-4, atol=1e-6, msg=name)
    assert not same(left, last)
    clip = load_clip(str(result.output))
    data_sets = open_data_sets({"id": (f"seen={images}",)})
    again = evaluate_all(clip, data_sets, device=torch.device("cpu"))
    assert result.results == again


def test_a_dry_run_takes_steps_with_a_teacher(config: Config, vit_folder: Path) -> None:
    flags = ("--model", vit_folder, "--teacher", "frozen", "--ema", "0.9", "--distill-weight", 3)
    said = "\n".join(dry_run(config(*flags)))
    assert "distill/class_text x 3" in said
    assert "teacher and averages" in said


OWN = """
from trainer.methods.method import Method, Phase
from trainer.objective.features import Feature

class Spread:
    name, weight = "spread", 1.0
    features = (Feature("image", "finetune"), Feature("image", "finetune", teacher=True))

    def __call__(self, features, batch, towers, gather):
        model, teacher = (features[feature] for feature in self.features)
        assert towers.teacher is not None and not teacher.requires_grad
        return (model - teacher).square().sum()

METHOD = Method("own", "near a teacher", (Phase(lambda given: [Spread()]),))
"""


def test_a_term_of_ones_own_asks_the_teacher(run: Run, tmp_path: Path, vit_folder: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    flags = ("--model", vit_folder, "--teacher", "frozen", "--distill-weight", "0")
    flags += ("--epochs", "1", "--precision", "bf16", "--weight-decay", "100")
    result = run("--method", tmp_path / "own.py", *flags)
    values = [line["spread"] for line in read_metrics(result.output)]
    assert all("distill" not in name for name in read_metrics(result.output)[0])
    assert values[0] == 0  # the same weights, in the same precision
    assert values[-1] > 0  # only the decay moves them
    card = (result.output / "README.md").read_text()
    assert "frozen" in card


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--teacher ema --teacher-beta 1 1", "--teacher-beta means nothing with --teacher ema"),
        ("--teacher frozen --teacher-decay 0.9", "--teacher-decay means nothing with --teacher f"),
        ("--teacher wma --teacher-beta 1", "--teacher-beta takes two numbers above 0"),
        ("--teacher wma --teacher-beta 1 0", "--teacher-beta takes two numbers above 0"),
        ("--teacher ema --teacher-decay 1", "--teacher-decay must be above 0 and below 1"),
        ("--distill-weight 1", "--distill-weight needs a teacher"),
        ("--distill-on pairs", "--distill-on needs a teacher"),
        ("--teacher frozen --distill-weight -1", "--distill-weight must be at least 0"),
        ("--teacher frozen --distill-weight 0", "--distill-weight 0 leaves the teacher nothing"),
        ("--teacher frozen --distill-temperature -1", "--distill-temperature must be above 0"),
        ("--ema 1", "--ema must be above 0 and below 1"),
        ("--teacher frozen --method ft", "needs a contrastive term, which --method ft has not"),
        ("--teacher frozen --distill-on pairs", "--distill-on pairs means nothing: --method flyp"),
        ("--teacher frozen --distill-on both", "--distill-on both means nothing: --method flyp"),
        ("--ema 0.9 --method zero-shot", "--method zero-shot trains nothing"),
        ("--method own.py", "the term 'spread' of --method own wants a teacher; give --teacher"),
    ],
)
def test_what_means_nothing_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    with pytest.raises(UserError) as raised:
        run(*flags.split())
    assert sentence in str(raised.value)
    assert not (tmp_path / "run").exists()
