"""What students begin with, and what they should end with, taken from the chapters' exercises."""

import re
from functools import cache

import matplotlib as mpl
import nbformat
from set_address import ROOT

STUB = "    raise NotImplementedError()\n"


@cache
def cells(stem: str) -> dict[str, nbformat.NotebookNode]:
    """The cells of a chapter, by their ids."""
    chapter = nbformat.read(ROOT / "chapters" / f"{stem}.ipynb", as_version=4)
    return {cell.id: cell for cell in chapter.cells}


def answers(stem: str, *, cut: bool) -> dict[str, object]:
    """The names that a student's answers define: the solutions, or with `cut` the empty stubs.

    A set-up that trains a network, for the figures, does so at its end, which is left out.
    """
    defined: dict[str, object] = {}
    with mpl.rc_context():
        exec(cells(stem)["exercises-setup"].source.partition("\ntrain, ")[0], defined)
    for name, cell in cells(stem).items():
        if cell.cell_type == "code" and re.fullmatch(r"exercise-\d+-answer", name):
            text = cell.source
            if cut:
                text = re.sub(r" *### BEGIN SOLUTION\n.*?### END SOLUTION", STUB, text, flags=re.S)
            exec(text, defined)
    return defined
