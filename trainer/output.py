"""The run's folder: whose it is, whether it goes on, and what it says of itself."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.clip import CONFIG_NAME
from schemas.errors import UserError
from shards import places
from trainer.best import BEST
from trainer.card import CARD_NAME
from trainer.checkpoint import drop_state, has_state
from trainer.config import TrainConfig
from trainer.faults import NONFINITE_NAME
from trainer.metrics import METRICS_NAME
from trainer.recipes import RECIPE_NAME, recipe_text
from trainer.run_file import RESULTS_NAME, RUN_NAME, read_run, write_json
from trainer.trackers.identity import IDENTITY_NAME
from trainer.trackers.tensorboard import FOLDER as TENSORBOARD
from trainer.trackers.wandb import FOLDER as WANDB

LOSS_NAME = "loss.png"
PACKAGES = ("anchorft", "numpy", "open_clip_torch", "pillow", "timm", "torch", "transformers")


def claim(config: TrainConfig) -> bool:
    """Make sure that the output folder is this run's to write; nothing is written yet.

    Returns:
        True if the run in it is this one, and finished.

    Raises:
        UserError: the folder holds another run, or something else.
    """
    folder = output_folder(config.run.output)
    if not folder.exists() or not any(folder.iterdir()):
        return False
    told = read_run(folder)
    if told is None:
        raise UserError(
            f"{str(folder)!r} is not empty and holds no run; give another --output, or empty it."
        )
    if Path(config.run.model.removeprefix("local-dir:")).resolve() == folder.resolve():
        raise UserError(f"--model and --output are both {str(folder)!r}; give another --output.")
    if config.run.force:
        return False
    before = config.binding_defaults() | told.get("binding", {})
    for name, value in config.binding().items():
        if before.get(name) != value:
            raise UserError(
                f"{str(folder)!r} holds a run where {name} is {_say(before.get(name))}, and here "
                f"it is {_say(value)}; give another --output, or --force to replace it."
            )
    return (folder / CONFIG_NAME).exists() and not has_state(folder)


def output_folder(place: str) -> Path:
    """The folder as a path.

    Raises:
        UserError: it is a URL, or a file.
    """
    if not places.is_local(place):
        raise UserError(f"--output {place!r} is not a local folder, which open_clip needs.")
    folder = Path(place)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {place!r} is a file; give a folder.")
    return folder


def _say(value: Any) -> str:
    return "not given" if value is None else repr(value)


def clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else; the model's config first."""
    files = (CONFIG_NAME, RUN_NAME, METRICS_NAME, RESULTS_NAME, LOSS_NAME, NONFINITE_NAME)
    for name in (*files, CARD_NAME, RECIPE_NAME, IDENTITY_NAME):
        (folder / name).unlink(missing_ok=True)
    for name in (BEST, TENSORBOARD, WANDB):
        shutil.rmtree(folder / name, ignore_errors=True)
    drop_state(folder)


def check_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Check that the run in a folder, if there is one, was begun with these inputs.

    Raises:
        UserError: one has changed since.
    """
    told = read_run(folder)
    if told is None:
        return
    for name, value in inputs.items():
        if told["inputs"].get(name) != value:
            raise UserError(
                f"the {name.replace('_', ' ')} changed since the run in {str(folder)!r} began; "
                f"give another --output, or --force to start over."
            )


def describe_run(
    folder: Path, config: TrainConfig, resolved: dict[str, Any], inputs: dict[str, Any]
) -> None:
    """Write config.json and recipe.yaml, or check that a run goes on with the same inputs.

    Args:
        folder: of the run.
        config: the options.
        resolved: what defaults came to.
        inputs: digests of the start model, the finetune references, the anchor set.

    Raises:
        UserError: an input has changed since the run began.
    """
    check_inputs(folder, inputs)
    recipe = recipe_text(config.as_dict(), "The options of this run: anchorft-train recipe.yaml")
    places.write_bytes(str(folder / RECIPE_NAME), recipe.encode())
    body = {
        "config": config.as_dict(),
        "resolved": resolved,
        "inputs": inputs,
        "packages": {name: version(name) for name in PACKAGES},
        "binding": config.binding(),
    }
    write_json(folder / RUN_NAME, body)
