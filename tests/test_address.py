"""The repository's address stands in `_config.yml`, and everything that repeats it agrees."""

import re
import shutil
import subprocess

import pytest
import yaml
from set_address import FILES, NOTEBOOKS, ROOT, read_address, set_address, slug

FORK = "https://github.com/someone.else/their-book"


@pytest.fixture
def copy(tmp_path):
    for pattern in (*FILES, *NOTEBOOKS):
        for path in ROOT.glob(pattern):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return tmp_path


def contents(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_no_other_file_repeats_the_address():
    """Files that set_address does not know would keep the old address."""
    tracked = subprocess.run(
        ["git", "grep", "-lFI", slug(read_address()[0])], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode > 1:
        pytest.skip("not a git repository")
    known = {path for pattern in (*FILES, *NOTEBOOKS) for path in ROOT.glob(pattern)}
    assert {ROOT / name for name in tracked.stdout.split("\n") if name} <= known


def test_a_fork_gets_every_link_and_nothing_else_changes(copy):
    before = contents(copy)
    old_url, old_branch = read_address(copy)
    changed = set_address(FORK, "spring/2027", copy)
    assert {copy / "_config.yml", copy / "README.md", *copy.glob("chapters/*.ipynb")} <= set(
        changed
    )
    assert read_address(copy) == (FORK, "spring/2027")
    for content in contents(copy).values():
        text = content.decode()
        assert slug(old_url) not in text
        for form in re.findall(r"their-book(@|/blob/|/tree/)(\S{0,11})", text):
            assert form[1] == "spring/2027"
    set_address(old_url, old_branch, copy)
    assert contents(copy) == before


def test_a_name_that_merely_begins_alike_stays(copy):
    url, _ = read_address(copy)
    other = f"See {url}-extras and {url}.github.io, but {url}."
    (copy / "README.md").write_text(other)
    set_address(FORK, "main", copy)
    expected = f"See {url}-extras and {url}.github.io, but {FORK}."
    assert (copy / "README.md").read_text() == expected


@pytest.mark.parametrize(
    "url", ["https://gitlab.com/a/b", "https://github.com/a", f"{FORK}/", f"{FORK}.git", "a/b"]
)
def test_what_colab_cannot_open_is_refused_before_anything_changes(copy, url):
    before = contents(copy)
    with pytest.raises(ValueError, match=r"https://github\.com/OWNER/NAME"):
        set_address(url, "main", copy)
    with pytest.raises(ValueError, match="branch"):
        set_address(FORK, "two words", copy)
    assert contents(copy) == before


def test_the_citation_names_the_repository_and_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["repository-code"] == read_address()[0]
    import distill_lib

    assert citation["version"] == distill_lib.__version__
