"""Installing the package in Colab installs nothing else, and replaces nothing.

`colab/versions-2026-08.txt` is a dated copy of the list that Colab publishes. Its packages are made
to look installed, in an empty environment, and pip is asked what it would do there. The resolver
does not look at what those packages need in turn: Colab's set is taken to be consistent.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

VERSIONS = Path(__file__).parent / "colab" / "versions-2026-08.txt"
COLAB_PYTHON = "3.13"


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A Python in whose environment Colab's packages look installed."""
    folder = tmp_path_factory.mktemp("colab")
    for line in VERSIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            info = folder / "installed" / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            info.joinpath("METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    return folder / "venv" / "bin" / "python", folder / "installed"


def would_install(colab, project: Path) -> set[str]:
    """Ask pip what `pip install project` would install or replace."""
    python, installed = colab
    report = project / "report.json"
    result = subprocess.run(
        [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", report, project],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return {item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]}


def test_colab_keeps_all_its_versions(colab, source, tmp_path):
    project = shutil.copytree(source, tmp_path / "project")
    assert would_install(colab, project) == {"distillation-book"}


def test_a_bound_above_colab_would_be_noticed(colab, source, tmp_path):
    project = shutil.copytree(source, tmp_path / "project")
    settings = (project / "pyproject.toml").read_text()
    raised = settings.replace('"tqdm>=4.66"', '"tqdm>4.67.3"')
    assert raised != settings
    (project / "pyproject.toml").write_text(raised)
    assert would_install(colab, project) == {"distillation-book", "tqdm"}


def test_colab_runs_a_python_that_the_package_allows(source):
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    assert COLAB_PYTHON in SpecifierSet(project["requires-python"])
    # The dry run above happens on this machine's Python, so nothing may hang on a marker.
    assert not [need for need in project["dependencies"] if ";" in need]
