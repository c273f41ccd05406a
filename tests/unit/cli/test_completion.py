"""`mailwatch completion`: what it prints completes commands, options and files in a shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mailwatch.cli import VERBS, main
from mailwatch.cli.completion import SHELLS


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def bash_completes(text: str, *words: str, cwd: Path) -> set[str]:
    """Return what bash offers for the last of the words, as the function of the script says."""
    line = " ".join(f"'{word}'" for word in ("mailwatch", *words))
    ask = f'{text}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}\n_shtab_mailwatch\necho "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, cwd=cwd)
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = script("bash", capsys)
    (tmp_path / "evidence.zip").touch()
    assert bash_completes(text, "", cwd=tmp_path) >= set(VERBS)
    assert bash_completes(text, "out", cwd=tmp_path) == {"outages"}
    assert bash_completes(text, "config", "sch", cwd=tmp_path) == {"schema"}
    assert bash_completes(text, "outages", "--op", cwd=tmp_path) == {"--open"}
    assert bash_completes(text, "report", "--lang", "", cwd=tmp_path) >= {"it", "en"}
    assert bash_completes(text, "verify", "evi", cwd=tmp_path) == {"evidence.zip"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_names_each_verb_and_the_shell_can_read_it(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = script(shell, capsys)
    assert [name for name in VERBS if name not in text] == []
    if (program := shutil.which(shell)) is not None:
        (tmp_path / "script").write_text(text)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True, capture_output=True)


def test_an_unknown_shell_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "fish"])
    assert ended.value.code == 2
    assert "bash" in capsys.readouterr().err
