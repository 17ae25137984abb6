"""The end of a build: data card, gallery, and the manifest, which makes the folder a set."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from pipelines.config import BuildConfig
from pipelines.parts import Part
from pipelines.retrieval.retrieve import index_info
from pipelines.selection.evaluation import is_evaluation
from schemas.errors import UserError
from schemas.manifest import (
    MANIFEST_NAME,
    Counts,
    InputInfo,
    Manifest,
    ModelInfo,
    Provenance,
    ShardEntry,
    set_digest,
)
from schemas.record import IMAGE_TEXT_PAIR, KINDS
from shards import places
from shards.completion import complete_set

PACKAGES = (
    "anchorft",
    "apache-beam",
    "faiss-cpu",
    "numpy",
    "open_clip_torch",
    "pillow",
    "pyarrow",
    "torch",
    "transformers",
    "webdataset",
)


def finish(
    _: None,
    shards: list[ShardEntry],
    stages: list[list[Part]],
    config: BuildConfig,
    classes: list[str],
) -> Manifest:
    """Write what goes beside the shards, the manifest last.

    Args:
        shards: all shards, in any order.
        stages: the parts of each stage that took part.
        config: the build's options.
        classes: finetune classes by index.

    Raises:
        UserError: nothing is left to make a set of, or the folder is another finished set.
    """
    shards = sorted(shards, key=lambda shard: (KINDS.index(shard.kind), shard.path))
    if not shards:
        raise UserError(
            "no anchors are left: every candidate was dropped; look at --min_score and at the "
            "texts of the pool."
        )
    manifest = Manifest(
        name=config.name,
        digest=set_digest(shards),
        kinds=[kind for kind in KINDS if any(shard.kind == kind for shard in shards)],
        samples=sum(shard.samples for shard in shards),
        classes=classes,
        shards=shards,
        provenance=provenance(stages, config),
    )
    place = places.join(config.output, MANIFEST_NAME)
    if places.exists(place):
        held = Manifest.from_json(places.read_bytes(place), place)
        if not config.force and held.digest == manifest.digest:
            return held
        if not config.force:
            raise UserError(
                f"{config.output!r} already holds a set made from other inputs; give another "
                f"--output, or --force to replace it."
            )
        places.remove(place)
    _remove_others(config.output, shards)
    return complete_set(config.output, manifest)


def _remove_others(output: str, shards: list[ShardEntry]) -> None:
    """Delete shards that an earlier run of another size has left; they are not in the manifest."""
    ours = {file.path for shard in shards for file in (shard, shard.index)}
    for kind in KINDS:
        folder = places.join(output, kind)
        names = places.list_folder(folder)[1] if places.exists(folder) else []
        for name in names:
            if re.fullmatch(r"\d{5,}\.(tar|parquet)", name) and f"{kind}/{name}" not in ours:
                places.remove(places.join(folder, name))


def provenance(stages: list[list[Part]], config: BuildConfig) -> Provenance:
    """From what, and how: models, inputs with fingerprints, counts, options, versions."""
    models: dict[str, ModelInfo] = {}
    inputs: list[InputInfo] = []
    counts: dict[str, Counts] = {}
    seen: set[tuple[str, str]] = set()
    # In the order of their names: a runner hands the stages over in any.
    for parts in sorted(filter(None, stages), key=lambda parts: parts[0].stage):
        for part in sorted(parts, key=lambda part: part.number):
            counts[part.stage] = counts.get(part.stage, Counts()) + part.counts
            if part.model:
                role = "captioner" if part.stage == "caption" else "encoder"
                models[role] = ModelInfo.model_validate(part.model)
            source, name = "finetune", part.name
            if part.stage == "embed-pool":
                source = "pool"
            elif is_evaluation(part.stage):  # of several places, which may name their files alike
                source, name = "evaluation", f"{part.stage.rsplit('-', 1)[1]}/{part.name}"
            reads_input = part.stage == "caption" or part.stage.startswith("embed-")
            if reads_input and (source, name) not in seen:
                seen.add((source, name))
                inputs.append(InputInfo(role=source, name=name, fingerprint=part.input_fingerprint))
            for name, fingerprint in part.extra.get("inputs", {}).items():  # read by locate
                if ("pool", name) not in seen:
                    seen.add(("pool", name))
                    inputs.append(InputInfo(role="pool", name=name, fingerprint=fingerprint))
    index: dict[str, Any] = {}
    if IMAGE_TEXT_PAIR in config.kinds:
        index = index_info(config.work, config.retrieval.k)
    return Provenance(
        captioner=models.get("captioner"),
        encoder=models.get("encoder"),
        index=index,
        inputs=inputs,
        counts=counts,
        config=config.recorded(),
        packages={name: version(name) for name in PACKAGES},
    )
