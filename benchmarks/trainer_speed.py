"""The trainer's steps: against one batch in memory, against a bare loop, and ARF's against FLYP's.

    python -m benchmarks.trainer_speed
    python -m benchmarks.trainer_speed --device cuda --precision bf16 --model ViT-B-16/openai \
        --batch 256 --steps 20 --samples 8192 --workers 8 --compile --peak-tflops 989

The model is ViT-B/32 with random weights; the images are JPEGs with the spectrum of photographs in
labelled tars, the anchors a set of both kinds. Three questions, each a ratio of times:

- the loop with the real loader over the same loop with one batch that is there already;
- the loop with one batch over a bare loop of the same forward, backward and update;
- what ARF's step costs over FLYP's at the same finetune batch, over what it costs bare;
- with --compile, FLYP's step as it is over the same one compiled.

Beside them, of each method's step with one batch: its floating-point operations as torch counts
them (matrix products and attention, forward and backward), how many of them a second, their share
of --peak-tflops (the GPU's figure for the precision, dense), and on a GPU the largest memory that
torch had allocated. And the share of the time for which the loop waited for the real loader.

With the real loader a step is counted from when its batch is there to when the next one is; the
first steps, which warm things up, and the last, whose batches are there already, do not count.
Checkpoints are not written in between: how often is for the user to say.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import models  # noqa: F401  (before open_clip: it makes torchvision importable)

# isort: split
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contest import FIGURES, conditions, contest, figures, parser, report
from benchmarks.made import make_set, photograph
from models.clip import load_clip
from shards.reader import AnchorSet
from trainer.config import DataConfig, LossConfig, OptimConfig, RunConfig, TrainConfig
from trainer.data import Batch, load_batches
from trainer.devices import autocast, choose_device, float32_products
from trainer.loop import run_loop
from trainer.metrics import BadSamples
from trainer.optim import make_optimizer
from trainer.parallel.processes import World
from trainer.parallel.wrapped import Wrapped
from trainer.prefetch import on_device
from trainer.prepare import Prepared, make_towers, prepare, samples_per_epoch

_FIRST = 2
COSTS = {
    "images_per_second": "images a second",
    "tflop": "TFLOP",
    "tflops": "TFLOP a second",
    "utilisation": "utilisation",
    "peak_mb": "peak MB",
}


def write_finetune(root: Path, number: int, classes: int = 10, per_tar: int = 256) -> str:
    """Labelled tars, as webdataset's users write them."""
    root.mkdir()
    names = "\n".join(f"class {i}" for i in range(classes))
    (root / "classnames.txt").write_text(names)
    for first in range(0, number, per_tar):
        with tarfile.open(root / f"{first // per_tar:05d}.tar", "w") as tar:
            for i in range(first, min(first + per_tar, number)):
                for extension, data in (("jpg", photograph(i)), ("cls", str(i % classes).encode())):
                    info = tarfile.TarInfo(f"{i:06d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(root)


class Clock:
    """When the device comes to a point of the program; elsewhere than on a GPU, now."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._points: list[Any] = []

    def point(self) -> None:
        """Here."""
        if not self._cuda:
            self._points.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._points.append(event)

    def between(self) -> list[float]:
        """Seconds from each point to the next one."""
        pairs = itertools.pairwise(self._points)
        if not self._cuda:
            return [after - before for before, after in pairs]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairs]


class Run:
    """One method on the data: its steps in our loop, and bare."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self._folder = folder
        self._world = World(choose_device(config.run.device))
        self._device = self._world.device
        self._config = config
        sets = [AnchorSet.open(place) for place in config.data.anchors]
        load = functools.partial(load_clip, random_weights=True)
        self.ready: Prepared = prepare(config, sets, self._world, load)
        self._towers = make_towers(self.ready, config, self._world)
        self._optimizer = make_optimizer(self._towers, config.optim)
        # The legs end later than we do, so that no checkpoint is written.
        (leg,) = self.ready.plan.legs
        legs = [replace(leg, stop=1 << 30)]
        self._plan = replace(self.ready.plan, legs=legs, steps_per_epoch=1 << 30)

    def batch(self) -> Batch:
        """The first one."""
        (first,) = self._loaded(1, 0)
        return first

    def _loaded(self, steps: int, workers: int) -> Iterator[Batch]:
        pin = self._device.type == "cuda"
        loaded = load_batches(self.ready.dataset, 0, steps, workers=workers, pin=pin)
        return on_device(loaded, self._device)

    def loop(self, batches: Iterable[Batch]) -> None:
        """Our loop over some batches."""
        bad = BadSamples(1.0, samples_per_epoch(self.ready.dataset))
        run_loop(
            Wrapped(self._towers, self._world),
            self._optimizer,
            batches,
            self._plan,
            start=0,
            world=self._world,
            folder=self._folder,
            bad=bad,
        )
        self._finish()

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def step_seconds(self, batches: Iterable[Batch], ahead: int) -> tuple[float, float]:
        """The median step of our loop, without the first and the last ones (see above).

        Args:
            ahead: batches that a loader holds ready, at most.

        Returns:
            Seconds of a step, and the share of the steps for which the loop waited for a batch.
        """
        clock = Clock(self._device)
        waits: list[float] = []

        def stamped() -> Iterator[Batch]:
            asked = time.perf_counter()
            for batch in batches:
                waits.append(time.perf_counter() - asked)
                clock.point()
                yield batch
                asked = time.perf_counter()

        self.loop(stamped())
        seconds = clock.between()
        steps = slice(_FIRST, len(seconds) - ahead)
        # A step ends when the batch after it is there.
        return statistics.median(seconds[steps]), sum(waits[1:][steps]) / sum(seconds[steps])

    def against_loader(self, steps: int, workers: int, rounds: int) -> dict[str, Any]:
        """A step with one batch in memory over one with the real loader, in turns."""
        one, ahead = self.batch(), workers
        number = _FIRST + steps + ahead + 1
        taken, waits = [], []
        for _ in range(rounds):
            ours, wait = self.step_seconds(self._loaded(number, workers), ahead)
            theirs, _ = self.step_seconds(itertools.repeat(one, _FIRST + steps + 1), 0)
            taken.append((ours, theirs))
            waits.append(wait)
        ratios = [round(theirs / ours, 3) for ours, theirs in taken]
        seconds = {
            name: round(statistics.median(both[which] for both in taken), 3)
            for which, name in enumerate(("ours", "theirs"))
        }
        return {
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "seconds": seconds,
            "wait": round(statistics.median(waits), 3),
        }

    def cost(self, batch: Batch, peak: float | None) -> dict[str, float]:
        """What a step with one batch takes.

        Args:
            peak: teraflops a second that the device could do.
        """
        counter = FlopCounterMode(display=False)
        with counter:
            self.bare(batch, 1)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        seconds, _ = self.step_seconds(itertools.repeat(batch, _FIRST + 4), 0)
        tera = counter.get_total_flops() / 1e12
        found = {
            "images_per_second": round(batch.samples() / seconds, 1),
            "tflop": round(tera, 4),
            "tflops": round(tera / seconds, 3),
        }
        if peak is not None:
            found["utilisation"] = round(tera / seconds / peak, 3)
        if self._device.type == "cuda":
            found["peak_mb"] = round(torch.cuda.max_memory_allocated(self._device) / 1e6)
        return found

    def bare(self, batch: Batch, steps: int) -> None:
        """Forward, backward and update, and nothing else: CLIP's loss over each pair of inputs."""
        model, optimizer = self._towers.model, self._optimizer
        model.train()
        pairs = [("finetune", "class")]
        pairs += [("finetune", name) for name in batch.texts if name.startswith("captions/")]
        pairs += [(name, name) for name in batch.images if name != "finetune"]
        device = self._device
        labels = {
            name: torch.arange(len(images), device=device) for name, images in batch.images.items()
        }
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, self._plan.precision):
                seen = {
                    name: model.encode_image(rows, normalize=True)
                    for name, rows in batch.images.items()
                }
                read = {
                    name: model.encode_text(rows, normalize=True)
                    for name, rows in batch.texts.items()
                }
            seen, read = (
                {name: rows.float() for name, rows in some.items()} for some in (seen, read)
            )
            total = torch.zeros((), device=device)
            for image, text in pairs:
                logits = model.logit_scale.exp() * seen[image] @ read[text].T
                target = labels[image]
                total = total + F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self._finish()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("the trainer's steps", samples=512, rounds=3)
    options.add_argument("--batch", type=int, default=16, help="(%(default)s)")
    options.add_argument("--steps", type=int, default=4, help="a round (%(default)s)")
    options.add_argument("--workers", type=int, default=2, help="of the loader (%(default)s)")
    options.add_argument("--model", default="ViT-B-32/openai", help="(%(default)s)")
    options.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (%(default)s)")
    options.add_argument("--precision", default="auto", help="of the trainer (%(default)s)")
    options.add_argument("--tf32", action="store_true", help="float32 products in TF32")
    options.add_argument("--compile", action="store_true", help="measure what it gives, too")
    options.add_argument("--peak-tflops", type=float, help="of the device; for the utilisation")
    arguments = options.parse_args(argv)
    with float32_products(choose_device(arguments.device), arguments.tf32):
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """What main was asked for."""
    steps, batch_size = arguments.steps, arguments.batch
    device = choose_device(arguments.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finetune = write_finetune(folder / "finetune", arguments.samples)
        anchors = str(folder / "anchors")
        make_set(anchors, 2 * arguments.samples)  # captions of all finetune images, as many pairs

        def make(method: str, *sets: str, compiled: bool = False) -> Run:
            place = folder / f"{method}{'-compiled' * compiled}"
            place.mkdir()
            run = RunConfig(
                arguments.model,
                str(place),
                log_every=1 << 20,
                device=str(device),
                precision=arguments.precision,
                compile=compiled,
            )
            config = TrainConfig(
                data=DataConfig(finetune, anchors=sets, batch_size=batch_size),
                run=run,
                loss=LossConfig(method=method),
                optim=OptimConfig(warmup=0),
            )
            return Run(config, place)

        flyp, arf = make("flyp"), make("arf", anchors)
        one, other = flyp.batch(), arf.batch()

        def again(batch: Batch) -> Iterable[Batch]:
            return itertools.repeat(batch, steps)

        found: dict[str, Callable[[], object]] = {
            "one batch": lambda: flyp.loop(again(one)),
            "bare": lambda: flyp.bare(one, steps),
            "arf": lambda: arf.loop(again(other)),
            "arf bare": lambda: arf.bare(other, steps),
        }
        rounds = arguments.rounds
        results = {
            "real loader": flyp.against_loader(steps, arguments.workers, rounds),
            "our loop": contest(found["one batch"], found["bare"], rounds),
            "arf, ours": contest(found["one batch"], found["arf"], rounds),
            "arf, bare": contest(found["bare"], found["arf bare"], rounds),
        }
        costs = {
            "FLYP": flyp.cost(one, arguments.peak_tflops),
            "ARF": arf.cost(other, arguments.peak_tflops),
        }
        if arguments.compile:
            quick = make("flyp", compiled=True)
            results["compiled"] = contest(
                lambda: quick.loop(again(one)), found["one batch"], rounds
            )
            costs["FLYP compiled"] = quick.cost(one, arguments.peak_tflops)
    cost = results["arf, ours"]["ratio"] / results["arf, bare"]["ratio"]
    body = {
        "conditions": conditions(
            samples=arguments.samples,
            batch=batch_size,
            steps=steps,
            workers=arguments.workers,
            model=arguments.model,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            precision=str(flyp.ready.plan.precision).removeprefix("torch."),
            rounds=rounds,
        ),
        "results": results,
        "costs": costs,
        "arf_cost": round(cost, 3),
    }
    names = {
        "compiled": "FLYP's step / compiled",
        "our loop": "bare loop / our loop",
        "arf, ours": "ARF's step / FLYP's, ours",
        "arf, bare": "ARF's step / FLYP's, bare",
    }
    loader = results["real loader"]
    spread = (loader["ratio"], min(loader["ratios"]), max(loader["ratios"]))
    rows = [("one batch / real loader", *(f"{ratio:.2f}" for ratio in spread), "")]
    rows += figures({name: results[key] for key, name in names.items() if key in results})
    report(body, ("times", *FIGURES), rows, arguments.output)
    print(f"what the anchors cost in our loop over what they cost bare: {cost:.3f}")
    print(f"share of the time for which the loop waited for the real loader: {loader['wait']:.3f}")
    for method, taken in costs.items():
        said = ", ".join(f"{COSTS[key]} {value:,}" for key, value in taken.items())
        print(f"a step of {method}: {said}")


if __name__ == "__main__":
    main()
