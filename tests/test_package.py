"""The package, installed from its wheel into an empty environment, does what the README says."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from set_address import ROOT

SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, source]
    subprocess.run(command, check=True)
    (built,) = out.glob("distillation_book-*.whl")
    return built


def test_wheel_holds_the_data_and_nothing_that_is_not_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "distill_lib"
    folders = ("mnist", "records", "checks", "interactive")
    carried = {"py.typed", *(f"{folder}/**/*" for folder in folders)}
    files = {path for pattern in ("*.py", *carried) for path in package.glob(pattern)}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sum(name.endswith(".gz") for name in expected) == 4, "MNIST's files"
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {Path(name).name for name in names if "/licenses/" in name} == {
        "LICENSE",
        "LICENSE-TEXT",
    }


def install(python: Path, *what: object) -> None:
    """Install with uv, which links what its cache has; where it has no index, pip has one."""
    try:
        command = [SCRIPTS / "uv", "pip", "install", "--quiet", "--python", python, *what]
        subprocess.run(command, check=True, capture_output=True)
    except subprocess.CalledProcessError:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)


def test_the_snippet_of_the_readme_trains_a_student(wheel, tmp_path):
    readme = (ROOT / "README.md").read_text("utf-8")
    (snippet,) = re.findall(r"<!-- snippet -->\s*```python\n(.*?)```", readme, re.S)
    lines = [line for line in snippet.splitlines() if line and not line.startswith("from ")]
    assert len(lines) == 5, "the README says five lines, imports aside"
    # Today's versions, which are on this machine already; tests/test_colab.py has older ones.
    pins = (ROOT / "requirements.txt").read_text().replace("-e .", "")
    (tmp_path / "pins.txt").write_text(pins)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install(python, wheel, "-c", tmp_path / "pins.txt")
    script = f"{snippet}\nimport distill_lib, json; print(json.dumps(distill_lib.__file__))"
    result = subprocess.run(
        [python, "-c", script],
        cwd=tmp_path,
        env={"PATH": "", "DISTILL_LIB_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    where = Path(json.loads(result.stdout.splitlines()[-1]))
    assert where.is_relative_to(tmp_path), (
        "ran with the repository's package, not the installed one"
    )
