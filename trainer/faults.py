"""What goes wrong in a run: losses that are no number, dead workers, full disks."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from schemas.errors import UserError
from shards import places
from trainer.compiling import is_of_compiling, reason
from trainer.objective.terms import Loss
from trainer.parallel.processes import World

NONFINITE_NAME = "nonfinite.jsonl"
Keys = Mapping[str, Sequence[str]]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NonFinite:
    """Steps that were skipped since their loss or gradient was no number.

    The update is left out where the gradient is known (see trainer.step), on the device; the flag
    that says so is read one step late, so that the host need not wait for a GPU. What was skipped
    is in ``nonfinite.jsonl``: step, loss, gradient norm, and the keys of all the step's images.

    Args:
        folder: of the run.
        start: the step that the run (re)starts at; lines of later steps are removed.
        most: so many skipped steps in a run end it.
        world: the processes that train together; the first writes.
        skipped: steps that were skipped before ``start``.
    """

    def __init__(
        self, folder: Path, start: int, *, most: int, world: World, skipped: int = 0
    ) -> None:
        self.skipped = skipped
        self._path, self._most, self._world = folder / NONFINITE_NAME, most, world
        self._waiting: tuple[int, Loss, Keys] | None = None
        if world.first and self._path.exists():
            lines = self._path.read_bytes().splitlines(keepends=True)
            kept = [
                one for one in lines if one.endswith(b"\n") and json.loads(one)["step"] <= start
            ]
            places.write_bytes(str(self._path), b"".join(kept))

    def note(self, step: int, loss: Loss, keys: Keys) -> None:
        """Look at a step, at once on the CPU, else when the next one comes.

        Args:
            step: number of steps done with it.
            loss: as train_step gave it.
            keys: of this process's images, as trainer.data.Batch has them.

        Raises:
            UserError: as settle.
        """
        self.settle()
        self._waiting = (step, loss, keys)
        if loss.total.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Look at the step that waits, if one does.

        Raises:
            UserError: too many steps were skipped.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        step, loss, keys = waiting
        if loss.finite is None or bool(loss.finite):
            return
        self.skipped += 1
        value, norm = (
            None if number is None else str(float(number))
            for number in (loss.total.detach(), loss.grad_norm)
        )
        parts = self._world.all_of([keys])  # each process sees the same, and so is here too
        if self._world.first:
            names = dict.fromkeys(name for part in parts for name in part)
            together = {name: [k for part in parts for k in part.get(name, ())] for name in names}
            entry = {"step": step, "loss": value, "grad_norm": norm, "keys": together}
            with self._path.open("ab") as file:
                file.write(json.dumps(entry).encode() + b"\n")
        if self.skipped >= self._most:
            raise UserError(
                f"{self.skipped:,} steps had a loss or gradient that is no number, the last at "
                f"step {step} (loss {value}, gradient norm {norm}); their samples are in "
                f"{str(self._path)!r}: lower --lr, set --clip-grad, or raise --max-nonfinite."
            )


@contextmanager
def in_words() -> Iterator[None]:
    """Say in a sentence what torch and the system say in a traceback.

    Raises:
        UserError: a worker of the loader died, the model cannot be compiled, or the disk is full.
    """
    try:
        yield
    except RuntimeError as error:
        if is_of_compiling(error):
            raise UserError(
                f"the model could not be compiled ({reason(error)}); leave --compile out, with "
                f"--force or another --output."
            ) from error
        text = str(error)
        if "DataLoader worker" not in text:
            raise
        raise UserError(
            f"a process that reads and decodes died ({text.splitlines()[0].rstrip('. ')}), most "
            f"likely for want of memory; run the same again with fewer --workers, or with more "
            f"memory and /dev/shm; what was saved is whole."
        ) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f"{str(error.filename)!r}" if error.filename else "the run's folder"
        raise UserError(
            f"{where} cannot be written ({error.strerror}); make room, and run the same again."
        ) from error


def gradient_norm(parameters: Sequence[torch.nn.Parameter], limit: float | None) -> torch.Tensor:
    """The norm of all gradients together, a float32 scalar; they are scaled down to ``limit``."""
    if limit is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def update_if(optimizer: torch.optim.Optimizer, finite: torch.Tensor) -> None:
    """A step of the optimizer where ``finite`` (a bool scalar) is true; else nothing moves.

    A fused optimizer decides on the device, as it does for gradient scalers; any other is asked
    by the host, which on a GPU waits for the step.
    """
    if finite.device.type != "cpu" and all(group.get("fused") for group in optimizer.param_groups):
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif bool(finite):
        optimizer.step()


class Statistics:
    """The running statistics of batch normalisation, to be put back if the step is skipped.

    A forward pass moves them before anybody knows whether its loss is a number.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._held = [
            (buffer, buffer.clone())
            for module in model.modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            for buffer in module.buffers(recurse=False)
        ]

    @torch.no_grad()
    def restore_unless(self, finite: torch.Tensor) -> None:
        """Put them back where ``finite`` is false; decided on the device."""
        for buffer, before in self._held:
            buffer.copy_(torch.where(finite, buffer, before))
