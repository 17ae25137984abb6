"""Measurements while a run trains, and the model that did best at one of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.clip import Clip, save_clip
from schemas.errors import UserError
from shards import places
from trainer.card import CARD_NAME, model_card
from trainer.classifier import Trained, save_classifier
from trainer.data_sets import DataSet
from trainer.evaluate import evaluate_all
from trainer.run_file import RESULTS_NAME, RUN_NAME, read_run, write_json

BEST = "best"
MEASURES = ("top1", "top5", "mean_per_class")


@dataclass
class Best:
    """The best model so far, by one metric; more is better.

    Attributes:
        metric: its name, see metric_names.
        value: in percent; None before the first measurement.
        step: steps done when it was reached.
    """

    metric: str
    value: float | None = None
    step: int = 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint, and for results.json."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a checkpoint, unless the run was asked for another metric then."""
        if state is not None and state["metric"] == self.metric:
            self.value, self.step = state["value"], state["step"]


@dataclass
class Measuring:
    """Measures the model as it stands, between two steps, and leaves no trace in the run.

    Every draw of a run follows from the step, so there is no random state to disturb but torch's
    own, which is put back; the model goes back to the mode it was in.

    Attributes:
        clip: the model that trains.
        head: the classifier that trains with it, if one does.
        data_sets: to measure on.
        folder: of the run; the best model goes to its ``best`` folder.
        device: of the model.
        max_bad_fraction: see trainer.evaluate.
        best: what is kept, or None.
        last: step and results of the latest measurement.
    """

    clip: Clip
    head: Trained | None
    data_sets: Sequence[DataSet]
    folder: Path
    device: torch.device
    max_bad_fraction: float
    best: Best | None = None
    last: tuple[int, dict[str, Any]] | None = field(default=None, init=False)

    def __call__(self, step: int) -> dict[str, float]:
        """Measure after ``step`` steps; returns the metrics by name, in percent.

        Raises:
            UserError: a data set has no images, or too many bad ones.
        """
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            results = evaluate_all(
                self.clip,
                self.data_sets,
                device=self.device,
                max_bad_fraction=self.max_bad_fraction,
                classifier=self.head,
            )
        self.last = step, results
        values = metric_values(results)
        best = self.best
        if best is not None and (best.value is None or values[best.metric] > best.value):
            best.value, best.step = values[best.metric], step
            self._keep(best, results)
        return values

    def _keep(self, best: Best, results: dict[str, Any]) -> None:
        """The model as a folder of its own, which says what it is.

        config.json is removed first and written last: no crash leaves a card beside other weights
        in a folder that counts as a run.
        """
        folder = self.folder / BEST
        (folder / RUN_NAME).unlink(missing_ok=True)
        save_model(self.clip, self.head, folder)
        run = read_run(self.folder)
        if run is None:  # not of trainer.train
            return
        run["kept"] = best.state()
        write_json(folder / RESULTS_NAME, results)
        card = model_card(f"{self.folder.resolve().name}-{BEST}", run, results)
        places.write_bytes(str(folder / CARD_NAME), card.encode())
        write_json(folder / RUN_NAME, run)


def save_model(clip: Clip, head: Trained | None, folder: Path) -> None:
    """A model folder, with the classifier where the run trains one."""
    folder.mkdir(parents=True, exist_ok=True)
    if head is not None:
        save_classifier(head.classifier, head.classes, folder)
    save_clip(clip, folder)


def metric_values(results: dict[str, Any]) -> dict[str, float]:
    """Results by metric: ``GROUP`` (the mean top-1 of its data sets) and ``GROUP/NAME/MEASURE``."""
    values = {name: value for name, value in results.items() if name != "datasets"}
    for name, data in results["datasets"].items():
        for measure in MEASURES:
            if data[measure] is not None:
                values[f"{data['group']}/{name}/{measure}"] = data[measure]
    return values


def best_by(metric: str, data_sets: Sequence[DataSet]) -> Best:
    """The record of a metric that these data sets give.

    Raises:
        UserError: they do not; the nearest that they give is named.
    """
    names = list(dict.fromkeys(data.group for data in data_sets))
    for data in data_sets:
        few = len(data.source.classes or ()) <= 5  # trainer.evaluate gives no top-5 of these
        names += [
            f"{data.group}/{data.name}/{measure}"
            for measure in MEASURES
            if not (few and measure == "top5")
        ]
    if metric not in names:
        nearest = difflib.get_close_matches(metric, names, n=1, cutoff=0.0)[0]
        raise UserError(f"--best {metric!r} is not measured; did you mean {nearest!r}?")
    return Best(metric)
