"""Captioners of four families behind one interface: how they decode, and what they keep."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny_builds import BLIP
from tiny_captioners import blip2, encoder_decoder, git
from tiny_data import picture

from pipelines.captioning.buckets import bucketed
from pipelines.captioning.captioner import TransformersCaptioner, check_captioner
from pipelines.captioning.decoding import Decoding
from pipelines.captioning.nucleus import NucleusDraw
from schemas.errors import UserError

MAKERS: dict[str, Callable[[Path], Path]] = {
    "blip": lambda folder: BLIP,
    "blip-2": blip2,
    "blip-2-t5": lambda folder: blip2(folder, decoder=False),
    "git": git,
    "vision-encoder-decoder": encoder_decoder,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("captioners")
    return {name: str(make(root / name)) for name, make in MAKERS.items()}


def captions(
    model: str, decoding: Decoding, seeds: list[int], *, batch: int = 100, draw: int = 0
) -> list[list[str]]:
    captioner = TransformersCaptioner(model, decoding)
    images = [captioner.prepare(picture(seed)) for seed in seeds]
    start = captioner.start(decoding.prompt)
    found: list[list[str]] = []
    for at in range(0, len(images), batch):
        part = images[at : at + batch]
        draws = [seed + draw for seed in seeds[at : at + batch]]
        found += captioner.caption(part, [start] * len(part), draws)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_every_family_writes_in_every_mode(models: dict[str, str], name: str) -> None:
    model = models[name]
    check_captioner(model, Decoding(max_new_tokens=6))
    for decoding in (
        Decoding(max_new_tokens=6, min_new_tokens=2),
        Decoding("beam", num_beams=3, captions_per_image=2, max_new_tokens=6),
        Decoding("nucleus", top_p=0.9, captions_per_image=2, max_new_tokens=6),
    ):
        found = captions(model, decoding, [0, 1, 2])
        assert [len(texts) for texts in found] == [decoding.captions_per_image] * 3
        assert any(text for texts in found for text in texts)
        assert captions(model, decoding, [0, 1, 2]) == found
        assert all(text == " ".join(text.split()) for texts in found for text in texts)


@pytest.mark.parametrize("name", MAKERS)
def test_the_prompt_stays_where_the_model_continues_it(models: dict[str, str], name: str) -> None:
    decoding = Decoding(prompt="a photo of a circle", max_new_tokens=4, min_new_tokens=2)
    (texts,) = captions(models[name], decoding, [0])
    if name == "blip-2-t5":  # it answers
        assert not texts[0].startswith(decoding.prompt)
    else:
        assert texts[0].startswith(decoding.prompt)
        assert texts[0] != decoding.prompt or name == "blip"


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_drawn_for_an_image_depends_on_no_other(models: dict[str, str], name: str) -> None:
    decoding = Decoding("nucleus", top_p=0.95, captions_per_image=2, max_new_tokens=8)
    seeds = list(range(7))
    whole = captions(models[name], decoding, seeds)
    assert captions(models[name], decoding, seeds, batch=3) == whole
    assert captions(models[name], decoding, seeds[::-1])[::-1] == whole
    assert captions(models[name], decoding, seeds, draw=1000) != whole
    assert any(first != second for first, second in whole)


def test_a_draw_follows_the_nucleus() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    n = 4000
    draw = NucleusDraw(0.9, [(seed,) for seed in range(n)])
    chosen = draw(torch.zeros(n, 1, dtype=torch.long), logits.repeat(n, 1))
    assert (chosen.isfinite().sum(1) == 1).all()
    counts = torch.bincount(chosen.argmax(1), minlength=4).tolist()
    assert counts[3] == 0  # the first three make 0.95, the first two 0.8
    expected = [n * p / 0.95 for p in (0.5, 0.3, 0.15)]
    assert stats.chisquare(counts[:3], expected).pvalue > 0.001
    again = draw(torch.zeros(n, 1, dtype=torch.long), logits.repeat(n, 1))
    assert not torch.equal(again, chosen)  # the next step's draw is another


def written(model: str, decoding: Decoding, seeds: list[int]) -> list[list[int]]:
    """Tokens of the captions after the mark of the beginning."""
    captioner = TransformersCaptioner(model, decoding)
    pixels = torch.stack([captioner.prepare(picture(seed)) for seed in seeds])
    start = torch.tensor([captioner.start("")] * len(seeds))
    arguments = decoding.generate_arguments(seeds)
    with torch.inference_mode():
        found = captioner._family.generate(captioner._model, pixels, start, arguments)
    ids: list[list[int]] = found[:, start.shape[1] :].tolist()
    return ids


def test_lengths_and_the_repetition_guard(models: dict[str, str]) -> None:
    lengths = {"max_new_tokens": 24, "min_new_tokens": 24}
    plain = written(models["git"], Decoding(**lengths), [0, 1, 2, 3])  # type: ignore[arg-type]
    assert {len(ids) for ids in plain} == {24}
    assert all(len(set(itertools.pairwise(ids))) < 23 for ids in plain)  # they repeat themselves
    for guard in ({"no_repeat_ngram": 2}, {"repetition_penalty": 50.0}):
        decoding = Decoding(**lengths, **guard)  # type: ignore[arg-type]
        for ids in written(models["git"], decoding, [0, 1, 2, 3]):
            assert len(ids) == 24
            assert len(set(itertools.pairwise(ids))) == 23
    short = written(models["git"], Decoding(max_new_tokens=3), [0, 1, 2, 3])
    assert all(len(ids) <= 3 for ids in short)


def test_settings_that_a_checkpoint_brings_do_not_act_unseen(
    models: dict[str, str], tmp_path: Path
) -> None:
    plain = captions(models["git"], Decoding(max_new_tokens=12), [0, 1])
    shutil.copytree(models["git"], tmp_path / "opinionated")
    place = tmp_path / "opinionated" / "generation_config.json"
    body = json.loads(place.read_text())
    body |= {"no_repeat_ngram_size": 1, "num_beams": 4, "min_length": 9, "max_length": 10}
    place.write_text(json.dumps(body))
    found = captions(str(tmp_path / "opinionated"), Decoding(max_new_tokens=12), [0, 1])
    assert found == plain


def test_what_cannot_be_captioned_with(models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give at most 6\d"):
        check_captioner(models["git"], Decoding(max_new_tokens=70))
    names = ["circle", "a circle " * 40]
    check_captioner(models["git"], Decoding(prompt="a photo of"), names)
    with pytest.raises(UserError, match="is longer than the captioner"):
        check_captioner(models["git"], Decoding(prompt="a {c}"), names)
    check_captioner(models["blip-2-t5"], Decoding(max_new_tokens=1000))
    other = tmp_path / "bert"
    shutil.copytree(BLIP, other)
    config = {"model_type": "bert", "vocab_size": 10}
    (other / "config.json").write_text(json.dumps(config))
    for act in (check_captioner, TransformersCaptioner):
        with pytest.raises(UserError, match="of type 'bert'; give a BLIP, BLIP-2, GIT"):
            act(str(other), Decoding())
    with pytest.raises(UserError, match="is not there"):
        check_captioner("./nothing", Decoding())


def test_only_safetensors_are_read(models: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(models["git"], tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(UserError, match="could not be loaded"):
        TransformersCaptioner(str(tmp_path / "pickled"), Decoding())


@given(
    st.lists(st.integers(1, 6), max_size=60),
    st.integers(1, 5),
    st.integers(1, 20),
)
def test_buckets_lose_nothing_and_mix_nothing(lengths: list[int], batch: int, hold: int) -> None:
    seen = 0
    given_out: list[tuple[int, int]] = []

    def items() -> Any:
        nonlocal seen
        for item in enumerate(lengths):
            seen += 1
            yield item

    for group in bucketed(items(), lambda item: item[1], batch=batch, hold=hold):
        assert 1 <= len(group) <= batch
        assert len({length for _, length in group}) == 1
        assert group == sorted(group)
        given_out += group
        assert seen - len(given_out) < max(hold, 1)
    assert sorted(given_out) == list(enumerate(lengths))
    groups = list(bucketed(lengths, lambda n: 0, batch=batch, hold=8 * batch))
    assert groups == [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
