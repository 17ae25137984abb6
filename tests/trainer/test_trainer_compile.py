"""Compiled towers: near the plain ones, the same bits when a run goes on, few compilations.

C++ takes a second a kernel. So a run here goes through all of inductor with torch's own kernels
(no_cpp), or is traced and runs as it was (graphs); one small tower is compiled in full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo
import torch._inductor.config as inductor
from test_trainer_run import interrupt, same, weights

from schemas.errors import UserError
from trainer import compiling
from trainer.compiling import check_compiler, compiled
from trainer.config import TrainConfig
from trainer.dry_run import dry_run
from trainer.metrics import MEASURED, read_metrics
from trainer.train import train

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def no_cpp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("trainer.prepare.check_compiler", lambda _: None)
    with inductor.patch(fallback_by_default=True):
        yield


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    dynamo.reset()
    # To try what the processor can do takes longer than all the rest.
    with inductor.patch({"cpp.vec_isa_ok": True}):
        yield
    dynamo.reset()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compiled."""
    found: list[Any] = []
    real = compiling._backend

    def compile_it(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.append(graph)
        return real(graph, inputs)

    monkeypatch.setattr(compiling, "_backend", compile_it)
    return found


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is traced, and runs as it was traced."""
    found: list[Any] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Any:
        found.append(graph)
        return graph

    monkeypatch.setattr(compiling, "_backend", keep)
    monkeypatch.setattr("trainer.prepare.check_compiler", lambda _: None)
    return found


def test_a_compiled_run_is_near_the_plain_one_and_goes_on_to_the_bit(
    config: MakeConfig,
    images: Path,
    vit_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compilations: list[Any],
    no_cpp: None,
) -> None:
    flags = ("--model", vit_folder, "--batch-size", "5", "--lr", "1e-4", "--ema", "0.5")
    flags += ("--method", "ft")  # one tower, since each takes seconds
    plain = train(config("--output", tmp_path / "plain", *flags))  # steps of 5 images, and of 4
    flags += ("--compile",)
    measured = ("--eval-id", f"seen={images}", "--eval-every", "1")
    whole = train(config("--output", tmp_path / "whole", *flags, *measured))
    assert len(compilations) == 1  # for steps of both sizes, and none for measuring
    lines, others = (
        [{k: v for k, v in one.items() if k not in MEASURED} for one in read_metrics(run.output)]
        for run in (plain, whole)
    )
    others = [one for one in others if "eval" not in one]
    losses = [one["loss"] for one in lines]
    assert [one["loss"] for one in others] == pytest.approx(losses, rel=1e-5)
    assert weights(plain.output).keys() == weights(whole.output).keys()
    assert not same(weights(plain.output), weights(whole.output))

    cut = config("--output", tmp_path / "cut", *flags, "--checkpoint-every", "1")
    interrupt(lambda: train(cut), 4, monkeypatch)
    dynamo.reset()
    rest = train(cut)
    assert same(weights(whole.output), weights(rest.output))
    again = [
        {k: v for k, v in one.items() if k not in MEASURED} for one in read_metrics(rest.output)
    ]
    assert again == others
    with pytest.raises(UserError, match="where --compile is True, and here it is False"):
        train(config("--output", tmp_path / "whole", *flags, "--no-compile"))


def test_chunks_and_a_teacher_are_compiled_once_each(
    config: MakeConfig, anchors: Path, vit_folder: Path, tmp_path: Path, graphs: list[Any]
) -> None:
    flags = ("--model", vit_folder, "--anchors", anchors, "--anchor-batch-size", "2")
    flags += ("--grad-checkpointing", "--teacher", "ema", "--chunk-size", "3")
    plain = train(config("--output", tmp_path / "plain", *flags))
    traced = train(config("--output", tmp_path / "traced", *flags, "--compile"))
    names = ("loss", "grad_norm", "tc", "itp", "distill/class_text")
    for one, other in zip(*(read_metrics(run.output) for run in (plain, traced)), strict=True):
        expected = [one[name] for name in names]
        assert [other[name] for name in names] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len(graphs) == 6  # a tower with a gradient, without one, and the teacher's; twice


def test_a_dry_run_times_no_compilation(
    config: MakeConfig, vit_folder: Path, monkeypatch: pytest.MonkeyPatch, graphs: list[Any]
) -> None:
    quick = compiling._backend

    def slow(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        time.sleep(2)
        return quick(graph, inputs)

    monkeypatch.setattr(compiling, "_backend", slow)
    lines = dry_run(config("--compile", "--method", "ft", "--model", vit_folder))
    (said,) = (line for line in lines if line.startswith("training, time"))
    assert len(graphs) == 1
    assert float(said.split()[2]) < 0.5


class Tower(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(6, 16)
        self.dropout = torch.nn.Dropout(0.5)

    def encode(self, rows: torch.Tensor, *, normalize: bool) -> torch.Tensor:
        found = self.dropout(self.words(rows).sin()).mean(1)
        return found / found.norm(dim=-1, keepdim=True) if normalize else found


def test_a_compiled_tower_draws_what_the_plain_one_draws_and_adds_up_in_order(
    tmp_path: Path, compilations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")  # torch is stricter then
    check_compiler(torch.device("cpu"))
    tower = Tower()
    whole = compiled(tower.encode, 4)
    for rows in (3, 8, 4):
        tokens = torch.randint(6, (rows, 5), generator=torch.Generator().manual_seed(rows))
        found = []
        for encode in (tower.encode, whole):
            torch.manual_seed(1)
            features = encode(tokens, normalize=False)
            (gradient,) = torch.autograd.grad(features.square().sum(), tower.words.weight)
            found.append((features.detach(), gradient))
        torch.testing.assert_close(found[1], found[0])
    assert len(compilations) == 1
    code = "".join(file.read_text() for file in (tmp_path / "inductor").rglob("*.[cp][py]*"))
    assert "sin(" in code
    # torch's own sum over a token's rows: inductor's, on several threads, is in an order of chance.
    assert "= torch.ops.aten.embedding_dense_backward.default(" in code


def test_without_a_compiler_nothing_is_written(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(UserError) as raised:
        train(config("--compile"))
    assert "--compile needs a compiler for cpu" in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_compile_is_a_sentence(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, graphs: list[Any]
) -> None:
    def fails(*_: object) -> Any:
        raise ValueError("no such kernel")

    monkeypatch.setattr(compiling, "_backend", fails)
    with pytest.raises(UserError) as raised:
        train(config("--compile"))
    assert "could not be compiled (ValueError: no such kernel); leave --compile" in str(
        raised.value
    )
