"""Every chapter, run again under nbval, gives the outputs that it shows."""

import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock
from set_address import ROOT

from distill_lib.recipes import mnist, mnist_teacher

SECONDS = 600  # thrice what the book promises: the tests run side by side, a core each


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The file of the book's teacher, trained once for all workers."""
    own = tmp_path_factory.getbasetemp()  # this worker's, inside the folder of all
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "teacher"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILL_LIB_CACHE", str(shared))
        mnist_teacher(mnist()[0])
    return next(shared.glob("mnist-teacher-*.pt"))


@pytest.mark.parametrize(
    "chapter", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_chapter_repeats_its_outputs(chapter, tmp_path, request):
    """Alone, in an empty folder, and with nothing in the cache but the teacher that it asks for."""
    shutil.copy(chapter, tmp_path)
    (tmp_path / "cache").mkdir()
    if "= mnist_teacher(" in chapter.read_text("utf-8"):
        shutil.copy(request.getfixturevalue("teacher"), tmp_path / "cache")
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
