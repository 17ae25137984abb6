"""The model card: README.md of a model that a run leaves, for people and for the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import open_clip

from shards import places
from trainer.data_sets import GROUPS
from trainer.run_file import RESULTS_NAME, read_run

CARD_NAME = "README.md"
_SETTINGS = ("batch_size", "anchor_batch_sizes", "precision", "steps_per_epoch", "teacher")


def model_card(name: str, run: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    """The card as Markdown with YAML front matter; a function of what the run wrote down.

    Args:
        name: of the model.
        run: what config.json holds; under ``kept``, where these are not the run's last weights, the
            step and the metric that they were kept for, as trainer.best has them.
        results: what results.json holds, if the run measured.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"plain": _plain, "code": _code}
    template = Path(__file__).with_name("card.md").read_text("utf-8")
    inputs, resolved, config = run["inputs"], run["resolved"], run["config"]
    settings = {setting: resolved[setting] for setting in _SETTINGS if resolved.get(setting)}
    if config["optim"].get("ema") is not None:
        settings["weights"] = f"exponential moving average, decay {config['optim']['ema']:g}"
    return environment.from_string(template).render(
        name=name,
        base_model=hub_name(config["run"]["model"]),
        datasets=_on_the_hub(config["data"]["anchors"]),
        images=inputs["finetune_data"]["images"],
        finetune_sha256=inputs["finetune_data"]["sha256"],
        classes=resolved["classes"],
        method=resolved["method"],
        anchors=inputs["anchor_sets"],
        parent=inputs["start_model"],
        phases=resolved["phases"],
        settings=settings | {"seed": config["run"]["seed"], "torch": run["packages"]["torch"]},
        kept=run.get("kept"),
        steps=resolved["steps"],
        epoch=resolved["steps_per_epoch"],
        results=results,
        groups=GROUPS,
    )


def write_card(folder: Path) -> None:
    """Write README.md from what the folder says of its run."""
    run, results = read_run(folder), None
    assert run is not None
    if (folder / RESULTS_NAME).exists():
        results = json.loads((folder / RESULTS_NAME).read_bytes())
    card = model_card(folder.resolve().name, run, results)
    places.write_bytes(str(folder / CARD_NAME), card.encode())


def hub_name(spec: str) -> str | None:
    """The Hub's name of a model as ``--model`` takes it; None where it has none."""
    if spec.startswith("hf-hub:"):
        return spec.removeprefix("hf-hub:").partition("@")[0]
    name, _, tag = spec.partition("/")
    known = open_clip.get_pretrained_cfg(name, tag) or {}
    return str(known.get("hf_hub") or "").rstrip("/") or None


def _on_the_hub(places: list[str]) -> list[str]:
    """Names of the anchor sets that lie on the Hub."""
    found = [re.match(r"hf://datasets/([^/@]+/[^/@]+)", place) for place in places]
    return [match[1] for match in found if match]


def _plain(text: str) -> str:
    """Text on one line that Markdown shows as it is: names come from files of other people."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(value: object) -> str:
    """The same, as code."""
    return "`" + " ".join(str(value).replace("`", "'").replace("|", "/").split()) + "`"
