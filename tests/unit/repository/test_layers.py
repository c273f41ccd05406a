"""The layers of mailwatch/__init__.py: a module imports only from layers below its own, and none in a circle."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "mailwatch"
LAYERS = (
    {"certificates", "errors", "facts", "files", "i18n", "kinds", "model"}
    | {"monotonic", "net", "phrases", "progress", "settings", "time_zone", "times"},
    {"ledger"},
    {"analysis"},
    {"config"},
    {"probes"},
    {"guard", "store"},
    {"setup"},
    {"evidence", "metrics", "notify", "web", "witness"},
    {"fleet", "hub"},
    {"monitor"},
    {"cli"},
    {"__main__"},
)
IMPORT_CALLS = {"importlib.import_module", "import_module", "__import__"}
CLOCK_CALLS = re.compile(r"(.*\.)?(now|utcnow|today|time\.(time|monotonic)(_ns)?)")
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in path.parts and path.name != "__main__.py" and "standalone" not in path.parts
}


# Read when a test asks for it: all workers collect these tests, and one runs them.
@cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


@cache
def defined(module: str) -> set[str]:
    body = trees()[module].body if module in MODULES else []
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported, also where that is inside a function or for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES and alias.name not in defined(node.module) else node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORT_CALLS and node.args:
            yield called_name(node.args[0])


def called_name(argument: ast.expr) -> str:
    """The module that a call imports, of an f-string what is certain of it."""
    part = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
    assert isinstance(part, ast.Constant), f"the name of a module is a literal: {ast.unparse(argument)}"
    return str(part.value).rstrip(".")


def at_import(tree: ast.Module) -> ast.Module:
    """Only what runs when the module is imported: no bodies of functions, nothing for types only."""
    body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body=body, type_ignores=[])


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def imported() -> dict[str, frozenset[str]]:
    return {module: frozenset(imports(tree)) for module, tree in trees().items()}


def external(module: str) -> set[str]:
    return {name.split(".")[0] for name in imported()[module]} - {"mailwatch"}


def in_package(*packages: str) -> list[str]:
    return [module for module in MODULES if package_of(module) in packages]


def test_a_module_imports_only_from_layers_below() -> None:
    wrong = []
    for module, names in imported().items():
        own = package_of(module)
        for other in {package_of(name) for name in names if name.startswith("mailwatch.")} - {own, ""}:
            # The facts of layer 0 stand below the rest of it.
            if own and LAYER_OF[other] >= LAYER_OF[own] and not LAYER_OF[own] == LAYER_OF[other] == 0:
                wrong.append(f"{module} imports {other}")
    assert wrong == []


@pytest.mark.parametrize(
    "code",
    [
        "import mailwatch.web.pages",
        "def later(): importlib.import_module('mailwatch.web.pages')",
        "from importlib import import_module\nimport_module('mailwatch.web.pages')",
        "__import__('mailwatch.web.pages')",
        "__import__(f'mailwatch.web.pages.{name}')",
    ],
)
def test_an_import_by_a_call_is_an_import(code: str) -> None:
    assert "mailwatch.web.pages" in set(imports(ast.parse(code)))


def test_an_import_of_an_unknown_module_is_refused() -> None:
    with pytest.raises(AssertionError, match="a literal: name"):
        list(imports(ast.parse("importlib.import_module(name)")))


def test_no_module_is_imported_in_a_circle() -> None:
    graph = {
        module: {name for name in imports(at_import(tree)) if name in MODULES and name != module}
        for module, tree in trees().items()
    }
    # A package imports its modules; that a module needs its own package first is how Python works.
    for module, others in graph.items():
        others -= {module.rpartition(".")[0]}
    graphlib.TopologicalSorter(graph).prepare()


def test_every_module_has_a_layer() -> None:
    assert {package_of(module) for module in MODULES} - {""} == LAYER_OF.keys() - {"__main__"}


def test_the_map_in_the_package_names_every_package() -> None:
    text = (PACKAGE / "__init__.py").read_text()
    assert [name for name in LAYER_OF if name not in text and name != "__main__"] == []


def test_only_the_store_speaks_sql() -> None:
    for module in MODULES:
        if package_of(module) != "store":
            assert not external(module) & {"sqlalchemy", "alembic", "sqlite3"}, module


def test_only_probes_speak_mail() -> None:
    for module in MODULES:
        if package_of(module) != "probes":
            assert not external(module) & {"aioimaplib", "aiosmtplib"}, module


def test_analysis_and_ledger_are_pure() -> None:
    """No event loop, no log, no connection, and no clock: the same facts give the same answer at any time."""
    for module in in_package("analysis", "ledger"):
        if module == "mailwatch.ledger.tsa":
            continue
        assert not external(module) & {"asyncio", "logging", "socket", "ssl"}, module
        called = {ast.unparse(node.func) for node in ast.walk(trees()[module]) if isinstance(node, ast.Call)}
        assert [name for name in called if CLOCK_CALLS.fullmatch(name)] == [], module


def test_in_the_monitor_only_its_edges_import_web_notify_and_evidence() -> None:
    # `pruning` asks what the evidence of each outage needs.
    edges = {
        "service",
        "startup",
        "read_model",
        "recorded_outages",
        "outage_detail",
        "document_maker",
        "target_detail",
        "management",
        "process",
        "self_audit",
        "pruning",
    }
    for module in in_package("monitor"):
        if module.split(".")[-1] not in edges:
            found = {package_of(name) for name in imported()[module]}
            assert not found & {"web", "notify", "evidence"}, module


def test_the_verifier_needs_neither_config_nor_store() -> None:
    """A bundle is checked by an opponent's expert: the less is loaded for it, the better."""
    code = "import sys, mailwatch.evidence.verify; print(chr(10).join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    parts = ("config", "store", "probes", "web", "i18n", "settings", "guard", "monitor", "cli")
    wrong = {f"mailwatch.{part}" for part in parts} | {"yaml", "pydantic", "sqlalchemy", "httpx", "fastapi"}
    assert sorted(wrong & set(found)) == []


def test_modules_named_in_package_docstrings_exist() -> None:
    """Lines such as `trip      one probe, from the one end to the other`."""
    missing = []
    for module, tree in trees().items():
        path = MODULES[module]
        if path.name != "__init__.py" or module == "mailwatch":
            continue
        for line in (ast.get_docstring(tree) or "").splitlines():
            if found := re.match(r"((?:\w+/?(?:, )?)+) {2,}\S", line):
                names = [name.rstrip("/") for name in found[1].split(", ")]
                there = {each.stem for each in path.parent.iterdir()}
                missing += [f"{module}: {name}" for name in names if name not in there]
    assert missing == []


def test_modules_named_in_comments_exist() -> None:
    """A reason that ends in (stretches.py) helps no reader once that module is renamed."""
    there = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.parent.glob("*/**/*.py")}
    missing = []
    for module, path in MODULES.items():
        for named in re.findall(r"(?<![\w/.-])((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)\b", path.read_text()):
            if named not in there and not any(each.endswith(f"/{named}") for each in there):
                missing.append(f"{module}: {named}")
    assert missing == []
