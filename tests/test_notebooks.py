"""Every chapter, run again under nbval, gives the outputs that it shows."""

import os
import shutil
import subprocess
import sys

import pytest
from set_address import ROOT

SECONDS = 600  # thrice what the book promises: the tests run side by side, a core each


@pytest.mark.parametrize(
    "chapter", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_chapter_repeats_its_outputs(chapter, tmp_path):
    """Alone, in an empty folder and with an empty cache, as on a machine new to the book."""
    shutil.copy(chapter, tmp_path)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull),
            *("--rootdir=.", "--nbval", "--nbval-current-env", "-q", "--tb=short", chapter.name),
        ],
        cwd=tmp_path,
        env={**os.environ, "DISTILL_LIB_CACHE": str(tmp_path / "cache"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, result.stdout + result.stderr
