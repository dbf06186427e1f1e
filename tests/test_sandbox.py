"""What a submission can do to the machine that grades it, at each level of isolation there is."""

import json
import os
import subprocess
import sys
from functools import cache

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from sandbox import LEVELS, Limits, run, works
from set_address import ROOT

LIMITS = Limits(cell=60, total=120, memory=400)
PLANTED = "planted_by_a_submission.py"
WRITES = f"""
import os, sysconfig
import distill_lib, nbformat
library = os.path.dirname(distill_lib.__file__)
packages, python = sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")
done = []
for folder in (library, library + "/checks/figures", packages, python, {str(ROOT / "tools")!r}):
    assert os.listdir(folder)
    for name in (folder + "/{PLANTED}", folder + "/__init__.py"):
        try:
            open(name, "a").close()
            done.append(name)
        except OSError:
            pass
print("wrote:", done)
"""
# Everybody may write to the library and to a folder that is mounted in it, but for the walls.
INVITING = """
set -e
cp -r "$1" "$2"
mount -t tmpfs -o mode=777 none "$1"
cp -r "$2/distill_lib/." "$1"
chmod -R a+rwX "$1"
mount -t tmpfs -o mode=777 none "$1/checks/figures"
cp "$2/distill_lib/py.typed" "$1/checks/figures"
exec "$3" -c "$4"
"""


@cache
def is_there(level):
    return works(level)


@pytest.fixture(params=LEVELS)
def level(request):
    if not is_there(request.param):
        pytest.skip(f"this machine has no isolation of the kind {request.param!r}")
    return request.param


def lab(code):
    return nbformat.writes(new_notebook(cells=[new_code_cell(code, id="only")]))


def test_what_a_submission_leaves_running_is_ended(level):
    """One in a session of its own, which has lost its parent, and one in the kernel's."""
    name = f"5{os.getpid()}"
    code = f"import os\nos.system('setsid sleep {name} & sleep {name} &')\nprint('started')"
    result = run(lab(code), level, LIMITS)
    assert "started" in json.dumps(result.cells) and result.failure is None
    assert not [p for p in psutil.process_iter(["cmdline"]) if name in (p.info["cmdline"] or ())]


def test_a_submission_writes_neither_to_the_library_nor_to_python(level, tmp_path):
    if level == "none":
        pytest.skip("there it can do what you can, and the report says so")
    if level == "user":  # kept out by the files' own permissions: there is no other wall
        result = run(lab(WRITES), level, LIMITS)
        assert "wrote: []" in json.dumps(result.cells), result
        return
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import sandbox as s\n"
        f"print(s.run({lab(WRITES)!r}, {level!r}, s.Limits(total=120)))"
    )
    arguments = [ROOT / "distill_lib", tmp_path, sys.executable, program]
    result = subprocess.run(
        ["unshare", *own, "--mount", "sh", "-c", INVITING, "sh", *arguments],
        capture_output=True,
        text=True,
    )
    assert "wrote: []" in result.stdout, result


def test_processes_together_have_a_limit(tmp_path):
    """Each of these may have its memory, and all of them may not."""
    hold = "import time\nkept = b'x' * 250_000_000\ntime.sleep(90)"
    code = (
        "import subprocess, sys\n"
        f"held = [subprocess.Popen([sys.executable, '-c', {hold!r}]) for _ in range(5)]\n"
        "[each.wait() for each in held]"
    )
    assert "more than 800 MB together" in run(lab(code), "none", LIMITS).failure
