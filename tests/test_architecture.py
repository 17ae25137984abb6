"""Which room may import which, and what nobody may call: read from the source of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "shards", "models", "pipelines", "trainer", "toyworld")
# A room's imports from our own rooms; everything else is refused.
MAY_IMPORT = {
    "schemas": set(),
    "shards": {"schemas"},
    "models": {"schemas", "shards"},
    "pipelines": {"schemas", "shards", "models"},
    "trainer": {"schemas", "shards", "models"},
    "toyworld": {"schemas", "shards", "models", "pipelines", "trainer"},
}
# Packages that a room does without.
MUST_NOT_IMPORT = {
    "schemas": {"torch", "apache_beam", "fsspec", "pathlib.Path", "io", "os", "shutil", "PIL"},
    "shards": {"torch", "apache_beam", "open_clip", "transformers"},
    "models": {"apache_beam"},
    "pipelines": set(),
    "trainer": {"apache_beam"},
    "toyworld": set(),
}
FILES = [(room, path) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a file, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(("room", "path"), FILES, ids=lambda x: str(x).removeprefix(f"{ROOT}/"))
def test_imports_go_one_way(room: str, path: Path) -> None:
    found = set(imports(ast.parse(path.read_text("utf-8"))))
    others = {other for other in ROOMS if other != room} - MAY_IMPORT[room]
    assert not {module for module in found if named(module, others | {"tests"})}
    assert not {module for module in found if named(module, MUST_NOT_IMPORT[room])}


@pytest.mark.parametrize("path", [p for _, p in FILES], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_untrusted_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not {m for m in imports(tree) if named(m, {"pickle", "dill", "cloudpickle", "joblib"})}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        settings = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in ("torch.load", "load_torch_file"):
            assert settings.get("weights_only") == "True", f"line {call.lineno}"
        if name in ("np.load", "numpy.load"):
            assert settings.get("allow_pickle") == "False", f"line {call.lineno}"
        assert name not in ("eval", "exec", "os.system"), f"line {call.lineno}"
        assert settings.get("shell") != "True", f"line {call.lineno}"


@pytest.mark.parametrize("path", [p for _, p in FILES], ids=lambda p: str(p.relative_to(ROOT)))
def test_parquet_is_read_without_threads_of_pyarrow(path: Path) -> None:
    """They let go of Python's file after its interpreter has gone: the command then aborts."""
    for call in (
        n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)
    ):
        name, words = ast.unparse(call.func), {word.arg for word in call.keywords}
        assert name != "pq.read_table", f"line {call.lineno}: pipelines.parts.read_parquet"
        if name.endswith((".read_row_group", ".iter_batches")) or "ParquetFile(" in name:
            assert "use_threads" in words, f"line {call.lineno}"


def test_the_check_sees_what_it_must() -> None:
    tree = ast.parse("def f():\n    from trainer import loop\n    import apache_beam.io\n")
    found = set(imports(tree))
    assert {m for m in found if named(m, {"trainer"})} == {"trainer", "trainer.loop"}
    assert {m for m in found if named(m, {"apache_beam"})} == {"apache_beam.io"}
    assert not named("trainers.x", {"trainer"})
