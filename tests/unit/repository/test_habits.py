"""What the documents name exists; what the workflows run is pinned, confined and the same as on any machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailwatch import __version__
from supply.notes import section
from tests.helpers.paths import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
_FOLDERS = "mailwatch|tests|docs|grafana|prometheus|benchmarks|supply|tools|[.]github|[.]ci|[.]devcontainer"
# The origin of a ledger is mailwatch/ and 16 hex digits.
_PATH = re.compile(rf"(?<![\w/.-])((?!mailwatch/[0-9a-f]{{16}}\b)(?:{_FOLDERS})/[\w./*{{}},-]*\w[\w*/}}])")


def code_of(text: str) -> Iterator[str]:
    """Yield what a document sets as code: spans in backticks, and indented or fenced lines."""
    yield from re.findall(r"`([^`\n]+)`", text)
    yield from re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
    for fence in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from fence.splitlines()


_IMAGES = {"grafana/grafana", "prom/prometheus"}
"""Names of container images, which look like paths."""


def braces(path: str) -> list[str]:
    """Spell out one {a,b} in a path, as a shell does."""
    found = re.search(r"\{([^{}]*)\}", path)
    return [path.replace(found[0], word) for word in found[1].split(",")] if found else [path]


def test_each_path_and_make_target_that_a_document_names_exists(subtests: pytest.Subtests) -> None:
    for document in DOCUMENTS:
        with subtests.test(document=str(document.relative_to(ROOT))):
            _assert_what_it_names_exists(document)


def _assert_what_it_names_exists(document: Path) -> None:
    for code in code_of(document.read_text()):
        for named in _PATH.findall(code):
            for path in set(braces(named)) - _IMAGES:
                assert any(ROOT.glob(path.rstrip("/"))), f"{document.name} names {path}, which is not there"
        for target in re.findall(r"(?:^|[;&(] *)make ([a-z][a-z-]*)", code):
            assert target in TARGETS, f"{document.name} names `make {target}`, which the Makefile does not have"


def test_a_path_and_a_target_that_are_missing_are_found() -> None:
    code = list(code_of("See `tests/nothing.py::test_it` or\n\n    make nonsense && echo\n\nand make sure."))
    assert code == ["tests/nothing.py::test_it", "make nonsense && echo"]
    assert _PATH.findall(code[0]) == ["tests/nothing.py"]
    assert braces("tests/{a,b}.py") == ["tests/a.py", "tests/b.py"]


def jobs_of(workflow: Path) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = yaml.safe_load(workflow.read_text())["jobs"]
    return jobs


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_pinned_by_its_commit_and_says_its_version(workflow: Path) -> None:
    uses = re.findall(r"uses: (\S+)(.*)", workflow.read_text())
    assert uses
    for action, comment in uses:
        if not action.startswith("./"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)
            assert re.fullmatch(r"  # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_read_only_and_jobs_declare_what_they_write(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    for name, job in jobs_of(workflow).items():
        assert "timeout-minutes" in job or "uses" in job, name
        if "write" in job.get("permissions", {}).values():
            assert workflow.name == "release.yml", name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_make_targets_that_exist(workflow: Path) -> None:
    called = re.findall(r"make (?:--silent )?([a-z][a-z-]*)", workflow.read_text())
    assert set(called) - TARGETS == set()


def test_ci_runs_each_python_that_the_metadata_names() -> None:
    matrix = jobs_of(ROOT / ".github" / "workflows" / "ci.yml")["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert matrix == named
    assert project["requires-python"] == f">={named[0]}"


def test_the_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    text = "## Unreleased\n\n- soon\n\n## 1.1.0 - 2026-01-02\n\n### Added\n\n- a\n\n## 1.0.0 - 2026-01-01\n\n- b\n"
    assert section(text, "1.1.0") == "### Added\n\n- a\n"
    assert section(text, "1.0.0") == "- b\n"
    for version in ("1.0", "1x0.0", "2.0.0"):
        with pytest.raises(ValueError, match="no section"):
            section(text, version)


def test_another_version_than_that_of_the_program_has_no_notes() -> None:
    command = [sys.executable, "-m", "supply.notes", f"{__version__}.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"mailwatch/__init__.py says {__version__}" in done.stderr


def test_the_hooks_run_the_tools_of_the_projects_own_environment() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "pygrep" or hook["entry"].startswith(".venv/bin/")


def test_the_dev_container_has_the_python_of_the_image() -> None:
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text()
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    (base,) = re.findall(r"^ARG PYTHON=(python:3\.\d+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert settings["image"].startswith(f"{base}-")
    assert set(re.findall(r"make (\S+) (\S+)", settings["onCreateCommand"])[0]) <= TARGETS | {".venv/.dev"}
