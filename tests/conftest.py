import os
import shutil

import pytest
from playwright.sync_api import sync_playwright
from set_address import ROOT
from xdist.scheduler import LoadFileScheduling

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


pytest.register_assert_rewrite("checking")


class ByFile(LoadFileScheduling):
    """Side by side, a file's tests stay together, as they share what its fixtures made.

    The chapters are the exception: each runs alone, and they take most of the time.
    """

    def _split_scope(self, nodeid):
        is_chapter = "test_notebooks.py" in nodeid
        return nodeid if is_chapter else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)  # unknown without xdist
def pytest_xdist_make_scheduler(config, log):
    """Whatever `--dist` says: pytest-xdist 3.8 loses the marks of `loadgroup` under pytest 9.2."""
    return ByFile(config, log)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """What is built from: a copy of the package, since a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, copy)
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "distill_lib", copy / "distill_lib", ignore=leave)
    return copy


@pytest.fixture(scope="session")
def chromium():
    """A browser, for the built book and for the figures that move."""
    where = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if where is None:
        pytest.skip("no Chromium here: install it, or name it in the variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=FLAGS)
        yield browser
        browser.close()
