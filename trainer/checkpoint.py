"""Checkpoints: all that a run needs to go on to the same bits, in one safetensors file each.

``OUTPUT/state/step-NNNNNNNN.safetensors`` holds the tensors of every part of the run (weights and
buffers, AdamW's moments, ...) and, as JSON in the header, what is no tensor. There is no random
state: every draw is a function of the step.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from models.clip import save_tensors
from schemas.errors import UserError

STATE = "state"
_PARTS, _SCALARS = "parts", "scalars"
_TENSOR = "__tensor__"
_BROKEN = (SafetensorError, OSError, KeyError, TypeError, ValueError)


class Stateful(Protocol):
    """A part of a run that a checkpoint keeps: a model, an optimizer, a scaler, an average."""

    def state_dict(self) -> dict[str, Any]:
        """Dicts and lists of tensors, numbers, texts and None."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go on from what state_dict gave."""
        ...


def save_state(
    folder: Path,
    step: int,
    parts: Mapping[str, Stateful],
    scalars: dict[str, Any],
    *,
    keep: int = 1,
) -> Path:
    """Write the state after ``step`` steps, whole or not at all, then drop older ones.

    Args:
        folder: of the run.
        step: steps done.
        parts: by name, without a dot. Of an optimizer the moments are saved: its learning rate
            follows from the step, and how it is implemented may differ when the run goes on.
        scalars: whatever else goes on, ready for JSON.
        keep: states to keep, this one included.

    Returns:
        The file.

    Raises:
        UserError: the disk is full; the older states are whole.
    """
    tensors: dict[str, torch.Tensor] = {}
    packed = {name: _pack(_state_of(part), name, tensors) for name, part in parts.items()}
    path = folder / STATE / f"step-{step:08d}.safetensors"
    header = {_PARTS: json.dumps(packed), _SCALARS: json.dumps({"step": step} | scalars)}
    save_tensors(tensors, path, header)
    older = [file for file in _files(folder) if file.name < path.name]
    later = [file for file in _files(folder) if file.name > path.name]  # broken, or not this run's
    for file in [*older[: max(0, len(older) - keep + 1)], *later]:
        file.unlink()
    return path


def load_state(
    folder: Path, parts: Mapping[str, Stateful], *, quiet: bool = False
) -> dict[str, Any] | None:
    """Restore the newest whole state into the parts; a broken one is passed over, and said so.

    Args:
        folder: of the run.
        parts: as save_state had them; loaded in their order.
        quiet: say nothing; another process does.

    Returns:
        The scalars, ``step`` among them; None if there is no state.

    Raises:
        UserError: every state is broken, or the newest whole one is of another model.
    """
    files = _files(folder)
    for path in reversed(files):
        try:
            packed, tensors, scalars = _read(path)
        except _BROKEN as error:
            if path == files[0]:
                raise _broken(path, error) from error
            if not quiet:
                print(
                    f"the checkpoint {str(path)!r} is broken ({_reason(error)}); going on from an "
                    f"older one",
                    file=sys.stderr,
                )
            continue
        try:
            if packed.keys() != parts.keys():
                raise ValueError(f"it holds {', '.join(packed)}, and wanted are {', '.join(parts)}")
            for name, part in parts.items():
                _restore(part, _unpack(packed[name], tensors))
        except (*_BROKEN, RuntimeError) as error:
            raise _broken(path, error) from error
        return scalars
    return None


def has_state(folder: Path) -> bool:
    """True if an unfinished run can go on."""
    return bool(_files(folder))


def drop_state(folder: Path) -> None:
    """Remove all checkpoints, the folder included."""
    shutil.rmtree(folder / STATE, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / STATE).glob("step-*.safetensors"))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        packed: dict[str, Any] = json.loads(header[_PARTS])
        scalars: dict[str, Any] = json.loads(header[_SCALARS])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return packed, tensors, scalars


def _state_of(part: Stateful) -> dict[str, Any]:
    state = part.state_dict()
    return {"state": state["state"]} if isinstance(part, torch.optim.Optimizer) else state


def _restore(part: Stateful, state: dict[str, Any]) -> None:
    if isinstance(part, torch.optim.Optimizer):
        state = part.state_dict() | state
    part.load_state_dict(state)


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The value as JSON; its tensors are put aside under names that begin with ``name``."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):  # as pairs: keys may be numbers, as an optimizer's are
        return {"": [[key, _pack(held, f"{name}.{key}", tensors)] for key, held in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(held, f"{name}.{number}", tensors) for number, held in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which no checkpoint holds")


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(held, tensors) for held in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    return {key: _unpack(held, tensors) for key, held in value[""]}


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".:")


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the checkpoint {str(path)!r} cannot be restored ({_reason(error)}); start over with "
        f"--force."
    )
