"""Checkpoints: all that a run needs to go on to the same bits, in one safetensors file.

``OUTPUT/state/step-NNNNNNNN.safetensors`` holds the weights and buffers, AdamW's moments and, as
JSON in the header, the scalars. There is no random state: every draw is a function of the step.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from models.clip import save_tensors
from schemas.errors import UserError

STATE = "state"
_MODEL, _OPTIMIZER, _SCALARS = "model.", "optimizer.", "scalars"


def save_state(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scalars: dict[str, Any],
) -> Path:
    """Write the state after ``step`` steps, whole or not at all, then drop the older ones.

    Args:
        folder: of the run.
        step: steps done.
        model: its weights and buffers are saved.
        optimizer: its moments are saved; its learning rate follows from the step.
        scalars: whatever else goes on, ready for JSON.

    Returns:
        The file.
    """
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        for name, tensor in moments.items():
            tensors[f"{_OPTIMIZER}{number}.{name}"] = tensor
    path = folder / STATE / f"step-{step:08d}.safetensors"
    save_tensors(tensors, path, {_SCALARS: json.dumps({"step": step} | scalars)})
    for other in _files(folder):
        if other != path:
            other.unlink()
    return path


def load_state(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore the newest state into the model and the optimizer.

    Returns:
        The scalars, ``step`` among them; None if there is no state.

    Raises:
        UserError: the file is broken, or of another model.
    """
    files = _files(folder)
    if not files:
        return None
    path = files[-1]
    try:
        with safe_open(path, framework="pt") as file:
            scalars: dict[str, Any] = json.loads(file.metadata()[_SCALARS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = {
            name.removeprefix(_MODEL): tensor
            for name, tensor in tensors.items()
            if name.startswith(_MODEL)
        }
        model.load_state_dict(weights)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                number, what = name.removeprefix(_OPTIMIZER).split(".", 1)
                moments.setdefault(int(number), {})[what] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".:")
        raise UserError(
            f"the checkpoint {str(path)!r} cannot be restored ({reason}); start over with --force."
        ) from error
    return scalars


def has_state(folder: Path) -> bool:
    """True if an unfinished run can go on."""
    return bool(_files(folder))


def drop_state(folder: Path) -> None:
    """Remove all checkpoints, the folder included."""
    shutil.rmtree(folder / STATE, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / STATE).glob("step-*.safetensors"))
