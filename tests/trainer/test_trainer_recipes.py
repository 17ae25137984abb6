"""Recipes: layers of options, mistakes in them as sentences, and the way back to a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from trainer.config import TrainConfig, parse, parts
from trainer.options import Type, types
from trainer.recipes import read_recipe, recipe_text

BASE = "data: {finetune: data}\nrun: {model: clip, output: runs/x}\n"


def write(folder: Path, text: str, name: str = "r.yaml") -> str:
    (folder / name).write_text(text, "utf-8")
    return str(folder / name)


def test_later_layers_win_and_lists_are_replaced(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        "data: {finetune: a, anchors: [x, y], workers: 3}\n"
        "run: {model: clip, output: o, eval_id: v, force: true}\n"
        "optim: {lr: 1e-4, epochs: 3, clip_grad: 1}\n",
        "a.yaml",
    )
    second = write(tmp_path, "data: {anchors: [z]}\noptim: {epochs: 4}\n", "b.yaml")
    config = parse([first, second, "--epochs", "5"])
    assert config.data.anchors == ("z",)
    assert (config.data.finetune, config.run.eval_id) == ("a", ("v",))
    assert (config.optim.lr, config.optim.epochs) == (1e-4, 5)
    assert isinstance(config.optim.clip_grad, float)
    assert parse([second, first]).data.anchors == ("x", "y")
    flags = "--clip-grad none --workers none --anchors none --eval-id p --eval-id q --no-force"
    config = parse([*flags.split(), first])
    assert (config.optim.clip_grad, config.data.workers, config.data.anchors) == (None, None, ())
    assert (config.run.eval_id, config.run.force) == (("p", "q"), False)


def test_plain_values_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "data: {finetune: no, classnames: null}\nrun: {model: 2024-01-01, output: '1e-5'}\n"
    config = parse([write(tmp_path, text + "optim: {lr: 1E-5, weight_decay: 010}")])
    assert (config.data.finetune, config.run.model, config.run.output) == (
        *("no", "2024-01-01", "1e-5"),
    )
    assert config.data.classnames is None
    assert (config.optim.lr, config.optim.weight_decay) == (1e-5, 10.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optm: {lr: 1}", "line 3: there is no section 'optm' (did you mean optim?)"),
        ("zzz: {lr: 1}", "there is no section 'zzz'; there are data, run"),
        (
            "optim:\n  lr: 1e-5\n  bta1: 1",
            "line 5: optim has no 'bta1' (did you mean optim.beta1?)",
        ),
        ("optim: {seed: 1}", "optim has no 'seed', which belongs under run"),
        ("optim: {lr: '1e-5'}", "line 3: optim.lr takes a number, not '1e-5'"),
        ("optim: {lr: fast}", "optim.lr takes a number, not 'fast'"),
        ("optim: {epochs: 1.5}", "optim.epochs takes a whole number, not 1.5"),
        ("optim: {epochs: true}", "optim.epochs takes a whole number, not true"),
        ("optim: {epochs: null}", "optim.epochs takes a whole number, not null"),
        ("optim: {clip_grad: [1]}", "optim.clip_grad takes a number, or null, not a list"),
        ("loss: {multi_positive: yes}", "takes true or false, not 'yes'"),
        ("loss: {lambda_tc: [1, [2]]}", "loss.lambda_tc takes a number, not a list"),
        ("loss: {lambda_tc: {a: 1}}", "or a list of these, not fields"),
        ("loss: {method: 3}", "loss.method takes text, or null, not 3"),
        ("optim: {lr: 1, lr: 2}", "'lr' comes twice"),
        ("run: {seed: 1}", "'run' comes twice"),
        ("optim: 3", "here should be fields of optim"),
        ("optim: {lr: !!python/object/apply:os.system [ls]}", "optim.lr takes a number"),
        ("optim: {lr: !!int abc}", "optim.lr takes a number, not abc"),
        ("optim: {decay: al}", "must be one of all, matrices, not 'al' (did you mean all?)"),
        ("optim: {lr: -1}", "must be above 0"),
        ("optim: {lr: .nan}", "--lr must be a finite number"),
        ("optim: {lr: [}", "line 3: no YAML"),
        ("optim: " + "[" * 3000, "no YAML"),
    ],
)
def test_mistakes_are_sentences(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        parse([write(tmp_path, BASE + text)])
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_missing_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output is missing; give it, or run"):
        parse([write(tmp_path, "data: {finetune: a}\nrun: {model: b}")])
    with pytest.raises(UserError, match=r"'nowhere\.yaml' cannot be read"):
        parse(["nowhere.yaml"])
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        parse([str(tmp_path / "r.yaml")])
    with pytest.raises(UserError, match=r"'al' \(did you mean all\?\)"):
        parse([write(tmp_path, BASE), "--decay", "al"])
    with pytest.raises(UserError, match="none stands alone"):
        parse([write(tmp_path, BASE), "--anchors", "a", "none"])


def _values(kind: Type) -> st.SearchStrategy[Any]:
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    one = {str: st.text(), int: st.integers(), float: numbers, bool: st.booleans()}[kind.kind]
    if kind.several:
        return st.lists(one, max_size=3).map(tuple)
    return one | st.none() if kind.optional else one


def _section(part: Any) -> st.SearchStrategy[Any]:
    kinds = types(part)
    return st.builds(part, **{item.name: _values(kinds[item.name]) for item in fields(part)})


@given(st.builds(TrainConfig, **{name: _section(part) for name, part in parts().items()}))
def test_a_config_written_as_a_recipe_reads_back(
    tmp_path_factory: pytest.TempPathFactory, config: TrainConfig
) -> None:
    path = write(tmp_path_factory.getbasetemp(), recipe_text(config.as_dict(), "a comment"))
    read = read_recipe(path, parts())
    assert TrainConfig(**{name: part(**read[name]) for name, part in parts().items()}) == config
