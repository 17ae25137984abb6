"""The main job on the embedded world: anchors built, a model finetuned on them, what it kept.

Every step is the command that a user would run, and is printed as such. A demo that was cut off
goes on where it stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from shards import places
from toyworld.picture import draw_results
from toyworld.world import EVAL_SETS, WorldConfig, ensure_world

MODELS = Path(__file__).parent / "models"
GROUPS = {"id": "in distribution", "shift": "domain shift", "zero_shot": "zero-shot"}
METHODS = {"before": "before finetuning", "flyp": "FLYP (class text only)", "arf": "ARF (anchors)"}
K = 50
MAX_NEW_TOKENS = 24
"""Room for the longest description; the small captioner has 32 positions."""
TRAINING = ("--epochs", "10", "--batch-size", "128", "--lr", "1e-3", "--seed", "0")
"""The same for both methods; only --anchors differs."""


def demo(output: Path, config: WorldConfig) -> dict[str, Any]:
    """Run the main job below ``output`` and return what results.json holds.

    Raises:
        UserError: a step failed; its own error has been printed.
    """
    world, anchors = output / "world", output / "anchors"
    began = time.time()
    say("1. a world: finetune photos, a web-like pool, evaluation sets")
    ensure_world(world, config)
    say("2. anchors: caption the photos, retrieve pairs from the pool, write shards")
    run(
        "pipelines",
        *("--finetune", world / "finetune", "--pool", world / "pool", "--output", anchors),
        *("--captioner", MODELS / "blip", "--encoder", MODELS / "clip", "--k", K),
        *("--max_new_tokens", MAX_NEW_TOKENS),
    )
    say("3. finetuning from the same start and seed, without anchors and with them")
    sets = evaluation_flags(world)
    train = ("--finetune", world / "finetune", "--model", MODELS / "clip", *TRAINING)
    run("trainer", *train, "--output", output / "flyp")
    run("trainer", *train, "--anchors", anchors, "--output", output / "arf")
    say("4. what each model can do")
    results: dict[str, Any] = {}
    for method, model in (
        ("before", MODELS / "clip"),
        ("flyp", output / "flyp"),
        ("arf", output / "arf"),
    ):
        file = output / f"{method}.json"
        run("trainer.evaluate", "--model", model, *sets, "--output", file)
        measured = json.loads(file.read_text("utf-8"))
        results[method] = {group: round(measured[group], 2) for group in GROUPS} | {
            "datasets": {n: round(d["top1"], 2) for n, d in measured["datasets"].items()}
        }
    places.write_bytes(
        str(output / "results.json"), (json.dumps(results, indent=2) + "\n").encode()
    )
    draw_results(results, METHODS, output / "results.png")
    shutil.copyfile(anchors / "gallery.html", output / "gallery.html")
    say(f"done in {(time.time() - began) / 60:.1f} minutes")
    print(table(results))
    for name, what in (
        ("results.json", "the table, and each data set"),
        ("results.png", "in distribution against out of distribution"),
        ("gallery.html", "the anchors, to look at"),
    ):
        print(f"{output / name}: {what}")
    return results


def evaluation_flags(world: Path) -> list[str]:
    """The evaluation sets as flags of anchorft-eval, by group."""
    flags: list[str] = []
    for group in GROUPS:
        members = [str(world / "eval" / one.name) for one in EVAL_SETS if one.group == group]
        flags += ["--" + group.replace("_", "-"), *members]
    return flags


def run(module: str, *arguments: object) -> None:
    """Run one of the product's commands in a process of its own.

    Raises:
        UserError: it failed.
    """
    words = [str(argument) for argument in arguments]
    print("$ python -m " + shlex.join([module, *words]), flush=True)
    status = subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
    if status:
        raise UserError(f"python -m {module} ended with status {status}; see its message above.")


def say(text: str) -> None:
    """A heading between steps."""
    print(f"\n== {text}", flush=True)


def table(results: dict[str, Any]) -> str:
    """Markdown table of the groups' means, top-1 in percent."""
    rows: list[Sequence[str]] = [("method", *GROUPS.values())]
    rows += [
        (METHODS[method], *(f"{values[group]:.1f}" for group in GROUPS))
        for method, values in results.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
