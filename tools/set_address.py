"""Point badges, install cells and links at a fork: `make address REPO=https://github.com/you/fork`.

The address is read from `_config.yml` alone, and everything else that repeats it is rewritten from
there. The tests compare each chapter with `badge` and `install_cell` below.
"""

import argparse
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = ("_config.yml", "README.md", "CONTRIBUTING.md", "CITATION.cff", "chapters/*.md")
NOTEBOOKS = ("chapters/*.ipynb", "labs/**/*.ipynb")
COLAB = "https://colab.research.google.com"


def read_address(root: Path = ROOT) -> tuple[str, str]:
    """Return the repository's URL and branch, as `_config.yml` has them."""
    repository = yaml.safe_load((root / "_config.yml").read_text("utf-8"))["repository"]
    return repository["url"], repository["branch"]


def badge(url: str, branch: str, path: str) -> str:
    """Return the Markdown of the badge that opens the notebook at `path` in Colab."""
    where = f"{COLAB}/github/{slug(url)}/blob/{branch}/{path}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({where})"


def install_cell(url: str, branch: str) -> str:
    """Return the source of the first code cell of every chapter."""
    return (
        "try:\n"
        "    import distill_lib\n"
        "except ImportError:  # in Colab, or wherever the package is not there yet\n"
        f'    %pip install -q "distillation-book @ git+{url}@{branch}"'
    )


def slug(url: str) -> str:
    """Return the `owner/name` of a GitHub URL."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)", url)
    if match is None or url.endswith(".git"):
        raise ValueError(
            f"the repository is {url!r}, but Colab opens notebooks from GitHub only: "
            "expected https://github.com/OWNER/NAME, with neither '.git' nor '/' at its end"
        )
    return match[1]


def set_address(url: str, branch: str, root: Path = ROOT) -> list[Path]:
    """Replace the present address by another in every file, and return the files that changed."""
    old_url, old_branch = read_address(root)
    new, old = slug(url), re.escape(slug(old_url))
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", branch) is None:
        raise ValueError(f"the branch is {branch!r}: expected a name such as 'main'")
    address = re.compile(
        rf"(github\.com/|{re.escape(COLAB)}/github/){old}"
        rf"(?:(@|/blob/|/tree/|/raw/){re.escape(old_branch)}(?![\w.-]))?(?![\w-]|\.\w)"
    )

    def replace(match: re.Match[str]) -> str:
        return match[1] + new + (match[2] + branch if match[2] else "")

    changed = []
    for pattern in (*FILES, *NOTEBOOKS):
        for path in sorted(root.glob(pattern)):
            before = path.read_text("utf-8")
            after = address.sub(replace, before)
            if path.name == "_config.yml":
                after = after.replace(f"  branch: {old_branch}\n", f"  branch: {branch}\n")
            if after != before:
                path.write_text(after, "utf-8")
                changed.append(path)
    return changed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="for example https://github.com/you/fork")
    parser.add_argument("branch", nargs="?", default="main")
    arguments = parser.parse_args()
    try:
        for file in set_address(arguments.url, arguments.branch):
            print(file.relative_to(ROOT))
    except ValueError as error:
        parser.error(str(error))
