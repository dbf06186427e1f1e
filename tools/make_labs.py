"""Write the students' notebooks from the chapters: `make labs`.

A lab is the exercises of its chapter: the cells between the headings *Exercises* and *Summary*.
nbgrader cuts out what stands between its marks; left out here are the cells whose id has the word
`solution`, and every output. A figure to reach stays, as a picture in the package: a cell of the
lab displays it, so that it shows on GitHub and in Colab and comes back after "run all". Running
this twice gives the same files.
"""

import base64
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from set_address import ROOT, badge, install_cell, read_address

FIGURES = Path("distill_lib", "checks", "figures")
INSTRUCTIONS = """\
# Lab: {title}

The exercises of the chapter [{title}]({chapter}). In each, put your code in the place of
`raise NotImplementedError()` and run the cell, then the check below it: it prints a ✓ or says what
is wrong. Check as often as you like.

What is checked and graded is found by its cell. So write your answers into the cells that are
there, and leave the checks as they are; add cells of your own wherever you need them. Before you
hand the notebook in, restart the kernel and run all cells once."""


def main(root: Path = ROOT) -> None:
    """Write the labs, and the figures to reach, of all chapters into a copy of the repository."""
    chapters = {}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if any("nbgrader" in cell.metadata for cell in notebook.cells):
            chapters[path.stem] = notebook
    for folder in (root / "labs", root / FIGURES):
        folder.mkdir(parents=True, exist_ok=True)
    labs = release({stem: lab_source(notebook, stem) for stem, notebook in chapters.items()})
    for stem, lab in labs.items():
        figures = figures_to_reach(chapters[stem])
        for cell in lab.cells:
            if (exercise := cell.id.removesuffix("-target")) != cell.id:
                cell.outputs = [figures[exercise]]
        nbformat.write(lab, root / "labs" / f"{stem}.ipynb")
        for exercise, figure in figures.items():
            picture = root / FIGURES / f"{stem}-{exercise}.png"
            picture.write_bytes(base64.b64decode(figure.data["image/png"]))


def exercises(chapter: NotebookNode) -> list[NotebookNode]:
    """Return the cells below the heading *Exercises* and above the heading *Summary*."""
    names = [re.match(r"## (.+)", cell.source) for cell in chapter.cells]
    start, stop = (
        next(i for i, name in enumerate(names) if name and name[1] == heading)
        for heading in ("Exercises", "Summary")
    )
    return chapter.cells[start + 1 : stop]


def figures_to_reach(chapter: NotebookNode) -> dict[str, NotebookNode]:
    """Return the output that is a figure, by the exercise that asks for it.

    What an answer or a solution draws elsewhere is no figure to reach.
    """
    return {
        cell.id.removesuffix("-figure"): output
        for cell in exercises(chapter)
        if re.fullmatch(r"exercise-\d+-figure", cell.id)
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }


def lab_source(chapter: NotebookNode, stem: str) -> NotebookNode:
    """Return the lab as nbgrader takes it from the instructor: solutions still in their marks."""
    url, branch = read_address()
    pages = f"{url}/blob/{branch}/chapters/"
    title = re.match(r"# (.+)", chapter.cells[1].source)[1]
    opening = INSTRUCTIONS.format(title=title, chapter=f"{pages}{stem}.ipynb")
    cells = [
        new_markdown_cell(badge(url, branch, f"labs/{stem}.ipynb"), id="badge"),
        new_markdown_cell(opening, id="opening"),
        new_code_cell(install_cell(url, branch), id="install"),
    ]
    with_figure = figures_to_reach(chapter)
    for cell in exercises(chapter):
        if "solution" in cell.id.split("-"):
            continue
        # A link to another page of the book must work from wherever the lab is opened.
        source = re.sub(r"\]\(([\w-]+\.(?:md|ipynb)[^)]*)\)", rf"]({pages}\1)", cell.source)
        marks = {"nbgrader": cell.metadata.nbgrader} if "nbgrader" in cell.metadata else {}
        new_cell = new_code_cell if cell.cell_type == "code" else new_markdown_cell
        cells.append(new_cell(source, id=cell.id, metadata=marks))
        if cell.id in with_figure:
            cells.append(target_cell(stem, cell.id))
    return new_notebook(cells=cells, metadata=chapter.metadata, nbformat_minor=5)


def target_cell(stem: str, exercise: str) -> NotebookNode:
    """Return the cell that displays the figure to reach."""
    source = (
        "# The figure to reach\n"
        f"from distill_lib import checks\n\nchecks.show_target({stem!r}, {exercise!r})"
    ).replace("'", '"')
    return new_code_cell(source, id=f"{exercise}-target")


def release(sources: dict[str, NotebookNode]) -> dict[str, NotebookNode]:
    """Return what `nbgrader generate_assignment` makes of the sources, by their names.

    They are one assignment in a course of its own: nbgrader takes seconds to start.
    """
    with tempfile.TemporaryDirectory() as course:
        folder = Path(course, "source", "labs")
        folder.mkdir(parents=True)
        for stem, source in sources.items():
            nbformat.write(source, folder / f"{stem}.ipynb")
        nbgrader(course, "generate_assignment", "labs")
        released = Path(course, "release", "labs")
        return {stem: nbformat.read(released / f"{stem}.ipynb", as_version=4) for stem in sources}


def nbgrader(course: str | Path, *arguments: str) -> str:
    """Run a command of nbgrader on a course and return its log; an error shows it."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls alembic
    result = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments, f"--CourseDirectory.root={course}"],
        cwd=course,
        env={**os.environ, "PATH": programs, "JUPYTER_CONFIG_DIR": str(course)},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise RuntimeError(f"nbgrader {' '.join(arguments)} failed:\n{result.stderr}")
    return result.stderr


if __name__ == "__main__":
    main()
