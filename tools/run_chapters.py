"""Execute chapters in place and keep their outputs: `make run`, or `make run CHAPTER=09-student`.

A chapter runs in a fresh kernel and in an empty folder, as it would in Colab. Cell ids stay. What
would change from run to run without meaning anything (time stamps, versions, progress bars) is left
out of the file. When a cell fails, the file stays as it was.
"""

import base64
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
PICTURE = CHAPTERS / "_static" / "data-flow.png"  # the README's, drawn by a cell of this name:
PICTURE_FROM = ("08-distiller", "data-flow-figure")
SLOW = 5.0  # seconds, above which a cell is named


def execute(notebook: NotebookNode) -> dict[str, float]:
    """Run all cells of `notebook` in place and return each cell's seconds, by its id."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not the user's
    with tempfile.TemporaryDirectory() as empty:
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=None,
            extra_arguments=["--log-level=ERROR"],
            coalesce_streams=True,
            store_widget_state=False,
            resources={"metadata": {"path": empty}},
        ).execute()
    return {
        cell.id: seconds(cell.metadata.pop("execution"))
        for cell in notebook.cells
        if "execution" in cell.metadata
    }


def seconds(stamps: dict[str, str]) -> float:
    """Return the time between a cell's start and its reply."""
    start = datetime.fromisoformat(stamps["iopub.execute_input"])
    return (datetime.fromisoformat(stamps["shell.execute_reply"]) - start).total_seconds()


def tidy(notebook: NotebookNode) -> None:
    """Drop what is volatile, and give every figure its alternative text in the rendered page."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python", "pygments_lexer": "ipython3"},
    )
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("mystnb", None)
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            shown = output.get("metadata", {}).get("image/png", {})
            if "alt" in shown:
                cell.metadata["mystnb"] = {"image": {"alt": shown["alt"]}}


def readme_picture() -> tuple[bytes, str]:
    """Return the picture of the README, and its text, as the chapter that draws it has them."""
    stem, name = PICTURE_FROM
    cells = nbformat.read(CHAPTERS / f"{stem}.ipynb", as_version=4).cells
    (cell,) = (cell for cell in cells if cell.id == name)
    return base64.b64decode(cell.outputs[0].data["image/png"]), cell.metadata.mystnb.image.alt


def run(chapter: Path) -> None:
    """Execute one chapter, write it, and print how long it took."""
    notebook = nbformat.read(chapter, as_version=4)
    start = time.perf_counter()
    times = execute(notebook)
    tidy(notebook)
    nbformat.write(notebook, chapter)
    if chapter.stem == PICTURE_FROM[0]:
        PICTURE.write_bytes(readme_picture()[0])
    print(f"{chapter.stem}: {time.perf_counter() - start:.1f} s", flush=True)
    for name, taken in times.items():
        if taken > SLOW:
            print(f"    {name}: {taken:.1f} s", flush=True)


def main(stems: list[str]) -> int:
    """Run the chapters named (all, when none is) and return the number that failed."""
    known = {path.stem: path for path in sorted(CHAPTERS.glob("*.ipynb"))}
    if unknown := set(stems) - set(known):
        print(f"no chapter is called {', '.join(unknown)}; there are {', '.join(known)}")
        return len(unknown)
    failed = 0
    for stem in stems or known:
        try:
            run(known[stem])
        except CellExecutionError as error:
            failed += 1
            print(f"{stem}: failed, and was left as it was\n{error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
