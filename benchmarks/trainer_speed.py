"""The trainer's steps: against one batch in memory, against a bare loop, and ARF's against FLYP's.

    python -m benchmarks.trainer_speed

The model is ViT-B/32 with random weights; the images are JPEGs with the spectrum of photographs in
labelled tars, the anchors a set of both kinds. Three questions, each a ratio of times:

- the loop with the real loader over the same loop with one batch that is there already;
- the loop with one batch over a bare loop of the same forward, backward and update;
- what ARF's step costs over FLYP's at the same finetune batch, over what it costs bare.

With the real loader a step is counted from when its batch is there to when the next one is; the
first steps, which warm things up, and the last, whose batches are there already, do not count.
Checkpoints are not written in between: how often is for the user to say.
"""

from __future__ import annotations

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

from benchmarks.contest import FIGURES, conditions, contest, figures, parser, report
from benchmarks.made import make_set, photograph
from models.clip import load_clip
from shards.reader import AnchorSet
from trainer.config import DataConfig, LossConfig, OptimConfig, RunConfig, TrainConfig
from trainer.data import Batch, load_batches
from trainer.loop import run_loop
from trainer.metrics import BadSamples
from trainer.optim import make_optimizer
from trainer.parallel.processes import World
from trainer.parallel.wrapped import Wrapped
from trainer.prepare import Prepared, make_towers, prepare, samples_per_epoch

WORLD = World(torch.device("cpu"))
_FIRST = 2


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


class Run:
    """One method on the data: its steps in our loop, and bare."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self._folder = folder
        self._config = config
        sets = [AnchorSet.open(place) for place in config.data.anchors]
        load = functools.partial(load_clip, random_weights=True)
        self.ready: Prepared = prepare(config, sets, WORLD, load)
        self._towers = make_towers(self.ready, config, WORLD)
        self._optimizer = make_optimizer(self._towers, config.optim)
        # The legs end later than we do, so that no checkpoint is written.
        (leg,) = self.ready.plan.legs
        legs = [replace(leg, stop=1 << 30)]
        self._plan = replace(self.ready.plan, legs=legs, steps_per_epoch=1 << 30)

    def batch(self) -> Batch:
        """The first one."""
        return self._loaded(1, 0)[0]

    def _loaded(self, steps: int, workers: int) -> list[Batch]:
        dataset = self.ready.dataset
        return list(load_batches(dataset, 0, steps, workers=workers, pin=False))

    def loop(self, batches: Iterable[Batch]) -> None:
        """Our loop over some batches."""
        bad = BadSamples(1.0, samples_per_epoch(self.ready.dataset))
        run_loop(
            Wrapped(self._towers, WORLD),
            self._optimizer,
            batches,
            self._plan,
            start=0,
            world=WORLD,
            folder=self._folder,
            bad=bad,
        )

    def step_seconds(self, batches: Iterable[Batch], ahead: int) -> float:
        """The median step of our loop, without the first and the last ones (see above).

        Args:
            ahead: batches that a loader holds ready, at most.
        """
        stamps: list[float] = []

        def stamped() -> Iterator[Batch]:
            for batch in batches:
                stamps.append(time.perf_counter())
                yield batch

        self.loop(stamped())
        steps = [after - before for before, after in itertools.pairwise(stamps)]
        return statistics.median(steps[_FIRST : len(steps) - ahead])

    def against_loader(self, steps: int, workers: int, rounds: int) -> dict[str, Any]:
        """A step with one batch in memory over one with the real loader, in turns."""
        one, ahead = self.batch(), workers
        number = _FIRST + steps + ahead + 1
        taken = []
        for _ in range(rounds):
            real = load_batches(self.ready.dataset, 0, number, workers=workers, pin=False)
            ours = self.step_seconds(real, ahead)
            theirs = self.step_seconds(itertools.repeat(one, _FIRST + steps + 1), 0)
            taken.append((ours, theirs))
        ratios = [round(theirs / ours, 3) for ours, theirs in taken]
        seconds = {
            name: round(statistics.median(both[which] for both in taken), 3)
            for which, name in enumerate(("ours", "theirs"))
        }
        return {"ratio": statistics.median(ratios), "ratios": ratios, "seconds": seconds}

    def bare(self, batch: Batch, steps: int) -> None:
        """Forward, backward and update, and nothing else: CLIP's loss over each pair of inputs."""
        model, optimizer = self._towers.model, self._optimizer
        model.train()
        pairs = [("finetune", "class")]
        pairs += [("finetune", name) for name in batch.texts if name.startswith("captions/")]
        pairs += [(name, name) for name in batch.images if name != "finetune"]
        labels = {name: torch.arange(len(images)) for name, images in batch.images.items()}
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            seen = {
                name: model.encode_image(rows, normalize=True)
                for name, rows in batch.images.items()
            }
            read = {
                name: model.encode_text(rows, normalize=True) for name, rows in batch.texts.items()
            }
            total = torch.zeros(())
            for image, text in pairs:
                logits = model.logit_scale.exp() * seen[image] @ read[text].T
                target = labels[image]
                total = total + F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("the trainer's steps", samples=512, rounds=3)
    options.add_argument("--batch", type=int, default=16, help="(%(default)s)")
    options.add_argument("--steps", type=int, default=4, help="a round (%(default)s)")
    options.add_argument("--workers", type=int, default=2, help="of the loader (%(default)s)")
    options.add_argument("--model", default="ViT-B-32/openai", help="(%(default)s)")
    arguments = options.parse_args(argv)
    steps, batch_size = arguments.steps, arguments.batch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finetune = write_finetune(folder / "finetune", arguments.samples)
        anchors = str(folder / "anchors")
        make_set(anchors, 2 * arguments.samples)  # captions of all finetune images, as many pairs
        runs = {}
        for method, sets in (("flyp", ()), ("arf", (anchors,))):
            place = folder / method
            place.mkdir()
            config = TrainConfig(
                data=DataConfig(finetune, anchors=sets, batch_size=batch_size),
                run=RunConfig(arguments.model, str(place), log_every=1 << 20),
                loss=LossConfig(method=method),
                optim=OptimConfig(warmup=0),
            )
            runs[method] = Run(config, place)
        flyp, arf = runs["flyp"], runs["arf"]
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
            rounds=rounds,
        ),
        "results": results,
        "arf_cost": round(cost, 3),
    }
    names = {
        "our loop": "bare loop / our loop",
        "arf, ours": "ARF's step / FLYP's, ours",
        "arf, bare": "ARF's step / FLYP's, bare",
    }
    loader = results["real loader"]
    spread = (loader["ratio"], min(loader["ratios"]), max(loader["ratios"]))
    rows = [("one batch / real loader", *(f"{ratio:.2f}" for ratio in spread), "")]
    rows += figures({names[key]: results[key] for key in names})
    report(body, ("times", *FIGURES), rows, arguments.output)
    print(f"what the anchors cost in our loop over what they cost bare: {cost:.3f}")


if __name__ == "__main__":
    main()
