"""The trainer against open_clip's own, on the same tars and the same architecture.

    make tools
    python -m benchmarks.trainer_open_clip

Both run as their users run them, each in processes of its own and in turns: our FLYP, and
``open_clip_train.main`` of the same open_clip and torch, with the webdataset that it wants, which
`make tools` puts beside us. Model, batch, precision, workers, threads, crop, texts and optimiser
are the same. A run's speed is that of its median step, without the first ones, which warm things
up, and the last ones, for which everything is decoded already.
"""

from __future__ import annotations

import io
import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.contest import conditions, parser, report
from benchmarks.made import photograph
from benchmarks.random_clip import write_clip

ROOT = Path(__file__).parent.parent
WEBDATASET = Path(sys.prefix) / "tools" / "open_clip_train"
CLASSES = 10
_FIRST, _LAST = 2, 4  # steps that do not count
_THEIRS = "import sys, models; from open_clip_train.main import main; main(sys.argv[1:])"
# Of each logged step: seconds.
_BATCH = re.compile(r"Train Epoch: .* Batch \(t\): ([0-9.]+)")


def write_tars(root: Path, number: int, tars: int) -> None:
    """Images with the text of their class, for theirs, and its number, for ours."""
    root.mkdir()
    (root / "classnames.txt").write_text("\n".join(f"class {i}" for i in range(CLASSES)) + "\n")
    for shard in range(tars):
        with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard, number, tars):
                text = f"a photo of a class {i % CLASSES}"
                for extension, data in (
                    ("jpg", photograph(i)),
                    ("txt", text.encode()),
                    ("cls", str(i % CLASSES).encode()),
                ):
                    info = tarfile.TarInfo(f"{i:06d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def run(command: Sequence[str], folder: Path, path: Sequence[Path]) -> str:
    """Run a trainer in a folder; returns what it wrote to the terminal."""
    before = os.environ.get("PYTHONPATH")
    places = [*map(str, path), *([before] if before else [])]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def ours(folder: Path, number: int, options: Mapping[str, object]) -> list[float]:
    """Seconds of each step of ours."""
    output = folder / f"ours-{number}"
    (folder / "template.txt").write_text("a photo of a {c}\n")
    command = (
        f"-m trainer --finetune data --model model --output {output.name} --method flyp "
        f"--templates template.txt --epochs 1 --batch-size {options['batch']} --precision fp32 "
        f"--workers {options['workers']} --lr 1e-5 --warmup 0 --log-every 1 --device cpu"
    )
    run(command.split(), folder, [ROOT])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    size = int(str(options["batch"]))
    return [size / line["images_per_second"] for line in lines]


def theirs(folder: Path, number: int, options: Mapping[str, object]) -> list[float]:
    """Seconds of each step of open_clip's."""
    command = (
        f"--train-data data/{{00000..{options['tars']:05d}}}.tar --dataset-type webdataset "
        f"--train-num-samples {options['samples']} --model {options['model']} --name {number} "
        f"--epochs 1 --batch-size {options['batch']} --precision fp32 --workers "
        f"{options['workers']} --lr 1e-5 --warmup 0 --wd 0.1 --beta2 0.999 --eps 1e-8 "
        f"--aug-cfg scale=(0.9,1.0) --log-every-n-steps 1 --logs none --device cpu"
    )
    said = run(["-c", _THEIRS, *command.split()], folder, [WEBDATASET, ROOT])
    return [float(seconds) for seconds in _BATCH.findall(said)]


def median_step(seconds: Sequence[float], steps: int) -> float:
    """Of the steps that count."""
    if len(seconds) != steps:
        raise SystemExit(f"{len(seconds)} steps were logged, not {steps}")
    return statistics.median(seconds[_FIRST : steps - _LAST])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser("our trainer against open_clip's", samples=448, rounds=3)
    options.add_argument("--batch", type=int, default=32, help="(%(default)s)")
    options.add_argument("--workers", type=int, default=2, help="of both loaders (%(default)s)")
    options.add_argument("--model", default="ViT-B-32", help="of open_clip's (%(default)s)")
    arguments = options.parse_args(argv)
    if not WEBDATASET.is_dir():
        raise SystemExit("open_clip's trainer wants a webdataset of its own; run `make tools`.")
    steps = arguments.samples // arguments.batch
    if arguments.samples % arguments.batch or steps <= _FIRST + _LAST:
        options.error(f"--samples must be a multiple of --batch, more than {_FIRST + _LAST} of it")
    if steps % max(1, arguments.workers):
        options.error("--samples must be so many batches that each worker has as many")
    tars = max(1, arguments.workers)
    shared = {
        "batch": arguments.batch,
        "workers": arguments.workers,
        "model": arguments.model,
        "samples": arguments.samples,
        "tars": tars - 1,
    }
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tars(folder / "data", arguments.samples, tars)
        write_clip(folder / "model", arguments.model)
        for number in range(arguments.rounds):
            taken: dict[str, float] = {}
            turn = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            for trainer in turn:
                seconds = median_step(trainer(folder, number, shared), steps)
                taken[trainer.__name__] = arguments.batch / seconds
            rounds.append(taken)
    ratios = [taken["ours"] / taken["theirs"] for taken in rounds]
    speeds = {
        which: round(statistics.median(taken[which] for taken in rounds), 2)
        for which in ("ours", "theirs")
    }
    body = {
        "conditions": conditions(
            samples=arguments.samples,
            batch=arguments.batch,
            workers=arguments.workers,
            model=arguments.model,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            rounds=arguments.rounds,
        ),
        "results": {
            "images a second": {
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
                "images_per_second": speeds,
            }
        },
    }
    row = [f"{ratio:.3f}" for ratio in (statistics.median(ratios), min(ratios), max(ratios))]
    told = [f"{speeds[which]:.1f}" for which in ("ours", "theirs")]
    head = ("images a second", "median", "least", "most", "ours", "theirs")
    report(body, head, [("ours / open_clip's", *row, *told)], arguments.output)


if __name__ == "__main__":
    main()
