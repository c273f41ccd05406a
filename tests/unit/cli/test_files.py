"""The files that a command writes for the user."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers.paths import ROOT


def test_output_is_written_to_a_folder_that_cannot_be_read() -> None:
    # Not tmp_path: its parents admit their owner only, and root may read every folder.
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "drop")
        folder.mkdir()
        Path(made).chmod(0o755)
        folder.chmod(0o300)
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        code = (
            "import os, pathlib, sys; from mailwatch.cli.files import write_output; "
            "os.geteuid() or os.setuid(65534); "
            "print(write_output(pathlib.Path(sys.argv[1]), b'report'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder / "outage.zip")],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        folder.chmod(0o700)
        assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr
