import shutil

import pytest
from set_address import ROOT


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """What is built from: a copy of the package, since a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, copy)
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "distill_lib", copy / "distill_lib", ignore=leave)
    return copy
