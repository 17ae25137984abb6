"""The data card: README.md of an anchor set, for people and for the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from schemas.manifest import Manifest, ModelInfo, ShardEntry
from schemas.record import IMAGE_TEXT_PAIR, TEXT_COMPENSATED, Kind
from shards.terminal import plain

_INPUTS_SHOWN = 20
_CLASSES_SHOWN = 50
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6))
_ABOUT: dict[Kind, str] = {
    TEXT_COMPENSATED: "a finetune image with the text that the captioner wrote for it",
    IMAGE_TEXT_PAIR: "an image of the pool that is near to a finetune image, with the text that "
    "it came with",
}
_LIMITS: dict[Kind, str] = {
    TEXT_COMPENSATED: "Captions are a model's: they can be wrong, repetitive or biased, and "
    "nobody has read them all.",
    IMAGE_TEXT_PAIR: "Pairs are retrieved by image similarity alone: the text need not fit the "
    "image, and a pair can show none of the classes. Duplicates, watermarks and unsafe pictures "
    "of the pool are kept unless a filter is listed above.",
}


def data_card(manifest: Manifest) -> str:
    """The card of a set as Markdown with YAML front matter; a function of the manifest alone."""
    made = manifest.provenance
    sections = [
        _front_matter(manifest),
        f"# {_plain(manifest.name)}",
        "An anchor set for anchor-based robust finetuning of CLIP (Han et al., CVPR 2024, "
        "[arXiv 2404.06244](https://arxiv.org/abs/2404.06244)): images with rich texts that are "
        "learned beside the finetune data, so that the model keeps what it knew. Format: "
        f"`{manifest.format}` {_plain(manifest.format_version)}.",
        f"    digest {manifest.digest}",
        "## What is in it",
        _contents(manifest),
        _classes(manifest),
        _left_out(manifest),
        "## From what",
        _inputs(manifest),
        "## Made how",
        _table(
            ("role", "model", "SHA-256 of the weights"),
            [
                (role, model.name, _Code(model.weights_sha256))
                for role, model in _models(made.captioner, made.encoder)
            ],
        ),
        _settings("Index", made.index),
        _settings("Options", made.config),
        _settings("Versions", made.packages),
        "## Read, kept, dropped",
        _table(
            ("stage", "read", "kept", "dropped"),
            [
                (stage, f"{c.read:,}", f"{c.kept:,}", _reasons(c.dropped) or "0")
                for stage, c in sorted(made.counts.items())
            ],
        ),
        "## Licence",
        "The images and the texts that came with them belong to their owners, and keep the "
        "licences of their sources; `license` and `url` of a record repeat what the source said. "
        "This card grants no right to them. Look at the terms of the sources before you share "
        "this set.",
        "## Known limits",
        "\n".join(f"- {_LIMITS[kind]}" for kind in manifest.kinds),
        "## How to load it",
        _loading(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(manifest: Manifest) -> str:
    """YAML that the Hub understands. JSON strings are YAML strings, whatever they hold."""
    size = next((name for name, most in _SIZES if manifest.samples < most), "n>1M")
    lines = [
        "---",
        f"pretty_name: {json.dumps(manifest.name)}",
        "license: other",
        "license_name: those-of-the-sources",
        "size_categories:",
        f"- {size}",
        "task_categories:",
        "- image-to-text",
        "- zero-shot-image-classification",
        "tags:",
        "- anchor-set",
        "- webdataset",
        "- clip",
        "configs:",
    ]
    for kind in manifest.kinds:
        lines += [f"- config_name: {kind}", f'  data_files: "{kind}/*.tar"']
    return "\n".join([*lines, "---"])


def _contents(manifest: Manifest) -> str:
    rows = []
    for kind in manifest.kinds:
        shards = [shard for shard in manifest.shards if shard.kind == kind]
        size = sum(shard.bytes for shard in shards) / 1e6
        anchors = sum(shard.samples for shard in shards)
        rows.append((kind, f"{anchors:,}", f"{len(shards):,}", f"{size:,.1f} MB", _ABOUT[kind]))
    return _table(("kind", "anchors", "shards", "tars", "one anchor is"), rows)


def _classes(manifest: Manifest) -> str:
    if not manifest.classes:
        return ""
    shown = ", ".join(_plain(name) for name in manifest.classes[:_CLASSES_SHOWN])
    more = len(manifest.classes) - _CLASSES_SHOWN
    return f"{len(manifest.classes):,} finetune classes: {shown}" + (
        f", and {more:,} more in `anchor_set.json`." if more > 0 else "."
    )


def _left_out(manifest: Manifest) -> str:
    """What to do about images that are not in the set."""
    lacking = sum(s.samples - s.images for s in manifest.shards if s.images is not None)
    if not lacking:
        return ""
    return (
        f"The images of {lacking:,} anchors are left out: their records name each by the SHA-256 "
        "of its bytes. Who holds the same finetune images can put them back with "
        "`anchorft-shards join`, or train on both as they are."
    )


def _inputs(manifest: Manifest) -> str:
    inputs = manifest.provenance.inputs
    rows = [(i.role, i.name, _Code(i.fingerprint)) for i in inputs[:_INPUTS_SHOWN]]
    text = _table(("role", "input", "fingerprint"), rows)
    more = len(inputs) - _INPUTS_SHOWN
    return text + (f"\n\n{more:,} more are listed in `anchor_set.json`." if more > 0 else "")


def _models(
    captioner: ModelInfo | None, encoder: ModelInfo | None
) -> Iterable[tuple[str, ModelInfo]]:
    for role, model in (("captioner", captioner), ("encoder", encoder)):
        if model is not None:
            yield role, model


def _settings(title: str, values: Mapping[str, object]) -> str:
    if not values:
        return ""
    flat = ", ".join(
        f"{_plain(name)} {_plain(value if isinstance(value, str) else json.dumps(value))}"
        for name, value in sorted(values.items())
    )
    return f"{title}: {flat}."


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(dropped.items()))


def _loading(manifest: Manifest) -> str:
    # By the kind of the first shard that has images, if there is one.
    chosen = sorted(manifest.shards, key=lambda shard: shard.images == 0)[:1]
    of_kind = [s for s in manifest.shards if chosen and s.kind == chosen[0].kind]
    shards = f"{of_kind[0].kind}/{_braces(of_kind)}.tar" if of_kind else "KIND/00000.tar"
    images = not chosen or chosen[0].images != 0
    names, members = ("image, text, record", '"jpg;jpeg;png;webp", "txt", "json"')
    decoded = '.decode("pil")'
    if not images:
        names, members, decoded = "text, record", '"txt", "json"', ".decode()"
    training = f"""
```bash
python -m open_clip_train.main --dataset-type webdataset \\
    --train-data '{shards}' --train-num-samples {sum(s.samples for s in of_kind)} ...
```
"""
    return f"""\
The shards are plain webdataset tars: `KEY.jpg` (or png, webp; the original bytes), `KEY.txt`
(the text) and `KEY.json` (the record). They need no code of ours:

```python
import webdataset as wds

anchors = wds.WebDataset("{shards}", shardshuffle=False){decoded}
for {names} in anchors.to_tuple({members}):
    ...
```
{training if images else ""}
The parquet beside each tar holds the same records in the same order, with the byte offset and
size of every member (`image_offset`, `image_size`, ...), so that a reader can seek.
`anchorft-shards verify` checks every file against `anchor_set.json`, and tars against parquets."""


def _braces(shards: Sequence[ShardEntry]) -> str:
    """The numbers of some shards as a range, or as a list where it has gaps."""
    numbers = sorted(shard.path.rpartition("/")[2].removesuffix(".tar") for shard in shards)
    first, last = numbers[0], numbers[-1]
    if len(numbers) == int(last) - int(first) + 1:
        return f"{{{first}..{last}}}" if first != last else first
    return f"{{{','.join(numbers)}}}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *[tuple(_cell(value) for value in row) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class _Code(str):
    """Text to be shown in a cell as code, where a backtick would end it and a bar the cell."""


def _cell(value: str) -> str:
    return (
        f"`{re.sub(r'[`|<>]', '?', _line(value))}`" if isinstance(value, _Code) else _plain(value)
    )


def _line(value: str) -> str:
    return plain(" ".join(str(value).split()))


def _plain(value: str) -> str:
    """Text of the data as text: one line, and nothing that Markdown or HTML would act upon."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", _line(value))
