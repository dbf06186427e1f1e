"""Put a student's answers into a pristine copy of the lab, and say what had to be mended.

A notebook comes back from Colab with marks and ids lost, cells copied, text for code, and outputs
of any size. What counts are the answers: they are looked for by nbgrader's mark, by the cell's id,
by the function they define, and by their place. All else is the release's, so that a changed check
changes nothing. Code cells that the student added stay where they were, as answers may need them.
"""

import ast
import json
import mmap
import re
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

LARGEST = 10_000_000  # bytes of a notebook without its outputs
MOST_CELLS = 2000
# A short string as a whole, the beginning of a long one, or a bracket.
TOKEN = re.compile(rb'"[^"\\]{0,99}+(?:\\.[^"\\]{0,99}+){0,9}+"|["\[\]{}]', re.S)
OUTPUTS = re.compile(rb"\s*:\s*\[")


class Unreadable(Exception):
    """The file is no notebook. The message says why, in words for the report."""


@dataclass
class Cell:
    """A cell as it was handed in."""

    kind: str
    source: str
    grade_id: str | None
    ids: set[str]
    attachments: dict[str, dict[str, str]] = field(default_factory=dict)


def without_outputs(path: Path) -> bytes:
    """Return the text of a notebook with `[]` for its outputs, which are never held in memory."""
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            raise Unreadable("the file is empty.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            kept = b"".join(data[start:stop] for start, stop in _spans_to_keep(data))
    return kept


def _spans_to_keep(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    start = position = depth = size = 0
    skipped_at = None  # how deep in brackets the outputs are that are being skipped
    while token := TOKEN.search(data, position):
        text, position = token[0], token.end()
        if text == b'"':
            position = _end_of_string(data, position)
        elif text in (b"[", b"{"):
            depth += 1
        elif text in (b"]", b"}"):
            depth -= 1
            if depth == skipped_at:
                skipped_at, start = None, position - 1
        elif text == b'"outputs"' and skipped_at is None:
            if bracket := OUTPUTS.match(data, position):
                position = bracket.end()
                size += position - start
                if size <= LARGEST:
                    yield start, position
                skipped_at, start, depth = depth, len(data), depth + 1
    if size + len(data) - start > LARGEST:
        raise Unreadable(f"the file has more than {LARGEST // 10**6} MB besides its outputs.")
    yield start, len(data)


def _end_of_string(data: mmap.mmap, position: int) -> int:
    while (end := data.find(b'"', position)) >= 0:
        backslashes = end
        while data[backslashes - 1] == ord("\\"):
            backslashes -= 1
        position = end + 1
        if (end - backslashes) % 2 == 0:
            return position
    return len(data)


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of the notebook that was handed in."""
    try:
        notebook = json.loads(without_outputs(path))
    except (ValueError, RecursionError):
        raise Unreadable("the file is not a whole notebook: was the download cut off?") from None
    if isinstance(notebook, dict) and isinstance(notebook.get("worksheets"), list):  # nbformat 3
        sheets = [sheet for sheet in notebook["worksheets"] if isinstance(sheet, dict)]
        notebook["cells"] = [cell for sheet in sheets for cell in sheet.get("cells", [])]
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise Unreadable("the file has no cells: it is not a notebook.")
    if len(notebook["cells"]) > MOST_CELLS:
        raise Unreadable(f"the notebook has more than {MOST_CELLS} cells.")
    return [_cell(cell) for cell in notebook["cells"] if isinstance(cell, dict)]


def _cell(cell: dict[str, Any]) -> Cell:
    metadata = _dict(cell.get("metadata"))
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    source = source if isinstance(source, str) else ""
    grade_id = _dict(metadata.get("nbgrader")).get("grade_id")
    return Cell(
        kind="code" if cell.get("cell_type") == "code" else "text",
        source=source.encode("utf-8", "replace").decode(),  # half a surrogate can't be written
        grade_id=grade_id if isinstance(grade_id, str) else None,
        ids={i for i in (cell.get("id"), metadata.get("id")) if isinstance(i, str)},  # Colab's
        attachments=_pictures(cell.get("attachments")),
    )


def _pictures(attachments: object) -> dict[str, dict[str, str]]:
    """Return the pictures in a written answer, say of a derivation on paper."""
    return {
        name: {kind: data}
        for name, kinds in _dict(attachments).items()
        for kind, data in _dict(kinds).items()
        if kind in ("image/png", "image/jpeg") and isinstance(data, str) and (name + data).isascii()
    }


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_answer(cell: NotebookNode) -> bool:
    """Whether students write into this cell of a release."""
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_graded(cell: NotebookNode) -> bool:
    """Whether this cell of a release has points."""
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def exercise(cell: NotebookNode) -> str:
    """Return the number of the exercise that a cell of a release belongs to, or nothing."""
    number = re.match(r"exercise-(\d+)", cell.id)
    return number[1] if number else ""


def function(stub: str) -> str | None:
    """Return the name of the function, or class, that a stub wants written: its last."""
    names = re.findall(r"^(?:def|class) (\w+)", stub, re.M)
    return names[-1] if names else None


def defines(source: str, name: str | None) -> bool:
    """Whether the code defines the function, even if it can't be parsed."""
    return name is not None and bool(re.search(rf"^[ \t]*(?:def|class) {name}\b", source, re.M))


def _same(a: str, b: str) -> bool:
    return abs(len(a) - len(b)) < 1000 and a.split() == b.split()


def recognised(cells: list[Cell], release: NotebookNode) -> int:
    """Return how many exercises of this lab the notebook has: a wrong lab has fewer."""
    marks = {cell.grade_id for cell in cells}
    code = [cell.source for cell in cells]
    found = set()
    for cell in release.cells:
        if is_answer(cell) and (
            cell.metadata.nbgrader.grade_id in marks
            or any(defines(source, function(cell.source)) for source in code)
        ):
            found.add(cell.id)
    return len(found)


class Mender:
    """One submission on its way into the release."""

    def __init__(self, release: NotebookNode, cells: list[Cell]) -> None:
        self.lab = deepcopy(release)
        self.cells = cells
        self.notes: list[str] = []
        self.place = [self._place(cell) for cell in cells]  # in the release, by marks and ids
        self.chosen: dict[int, int] = {}  # the answer's cell, by the release's
        self.inserted: dict[int, list[str]] = defaultdict(list)  # code before a cell of the release
        self.texts: dict[str, list[int]] = defaultdict(list)  # added text, by exercise

    def mend(self) -> NotebookNode:
        for i, cell in enumerate(self.lab.cells):
            if is_answer(cell) and cell.cell_type == "code":
                self._choose_code(i, cell)
        self._place_added_cells()
        for i, cell in enumerate(self.lab.cells):
            if is_answer(cell) and cell.cell_type == "markdown":
                self._write(i, cell)
        self._note_changed_checks()
        for i, k in self.chosen.items():
            if self.lab.cells[i].cell_type == "code":
                self.lab.cells[i].source = self._as_code(i, k)
        mended = []
        for i, cell in enumerate([*self.lab.cells, None]):
            mended += [
                new_code_cell(s, id=f"added-{i}-{n}") for n, s in enumerate(self.inserted[i])
            ]
            mended += [cell] if cell is not None else []
        self.lab.cells = mended
        return self.lab

    def _place(self, cell: Cell) -> int | None:
        """Return which cell of the release this one is: by its mark, its id, or its text."""
        for i, ours in enumerate(self.lab.cells):
            if cell.grade_id and ours.metadata.get("nbgrader", {}).get("grade_id") == cell.grade_id:
                return i
        if cell.grade_id:
            return None  # of another lab, whose cells have the same ids
        for i, ours in enumerate(self.lab.cells):
            name = function(ours.source)
            is_ours = name is None or not is_answer(ours) or defines(cell.source, name)
            if ours.id in cell.ids and is_ours:
                return i
        for i, ours in enumerate(self.lab.cells):
            if ours.source and _same(ours.source, cell.source):
                return i
        return None

    def _marked(self, i: int) -> list[int]:
        """Return the cells that are at this place and are not its untouched stub."""
        stub = self.lab.cells[i].source
        return [
            k
            for k, cell in enumerate(self.cells)
            if self.place[k] == i and cell.source.strip() and not _same(cell.source, stub)
        ]

    def _choose_code(self, i: int, stub: NotebookNode) -> None:
        name, number = function(stub.source), exercise(stub)
        found = self._marked(i)
        if len(found) > 1:
            self.notes.append(
                f"Exercise {number}: {len(found)} cells have its mark (a copied cell keeps it); "
                "the last one counts, the others stay as added cells."
            )
            # A copy without the function, say a trial of it, is not the answer.
            found = [k for k in found if defines(self.cells[k].source, name)] or found
        if not found:
            found = [
                k
                for k, cell in enumerate(self.cells)
                if defines(cell.source, name) and not self._is_ours(k)
            ]
            if found:
                self.notes.append(
                    f"Exercise {number}: the answer was found by its function's name, `{name}`; "
                    "its cell had lost the lab's mark (Colab drops it when a cell is made anew)."
                )
        elif self.cells[found[-1]].grade_id is None:
            self.notes.append(
                f"Exercise {number}: the mark was lost; the answer was found by its id."
            )
        if found:
            self.chosen[i] = found[-1]
        elif i not in self.place:
            self.notes.append(f"Exercise {number}: its cell is missing, and no answer was found.")

    def _is_ours(self, k: int) -> bool:
        """Whether a cell is as it was in the release."""
        i = self.place[k]
        return i is not None and _same(self.lab.cells[i].source, self.cells[k].source)

    def _as_code(self, i: int, k: int) -> str:
        cell = self.cells[k]
        if cell.kind == "code":
            return cell.source
        number = exercise(self.lab.cells[i])
        self.notes.append(f"Exercise {number}: the answer stood in a text cell; it is code again.")
        fenced = re.search(r"^```\w*\n(.*?)^```", cell.source, re.M | re.S)
        return fenced[1].rstrip("\n") if fenced else cell.source

    def _place_added_cells(self) -> None:
        """Let added code stay where it was: before the answer that follows it, if one does."""
        answers = {k: i for i, k in self.chosen.items()}
        here, count = 0, 0
        waiting: list[str] = []
        for k, cell in enumerate(self.cells):
            i = answers.get(k, self.place[k])
            is_copy = i is not None and k not in answers and i in self.chosen
            if i is not None and not is_copy:
                self.inserted[i if k in answers else here] += waiting
                here, waiting = i + 1, []
            if k in answers or self._is_ours(k) or not cell.source.strip():
                continue
            number = exercise(self.lab.cells[here - 1]) if here else ""
            if self._is_words(cell, i, number):
                self.texts[number].append(k)
            elif cell.kind == "code" and self._may_run(i):
                waiting.append(cell.source)
                count += 1
        self.inserted[here] += waiting
        if count:
            self.notes.append(
                f"Code cells that were added or changed: {count}. They run where they stood."
            )

    def _may_run(self, i: int | None) -> bool:
        """Whether code runs that was added, or is a changed set-up or a copy of an answer."""
        if i is None:
            return True
        ours = self.lab.cells[i]
        return ours.cell_type == "code" and not is_graded(ours)

    def _is_words(self, cell: Cell, i: int | None, number: str) -> bool:
        """Whether this is part of a written answer, though not its cell: text nearby."""
        in_words = any(
            is_answer(ours) and ours.cell_type == "markdown" and exercise(ours) == number
            for ours in self.lab.cells
        )
        if not in_words or (i is not None and is_answer(self.lab.cells[i])):
            return False
        return cell.kind == "text" or (i is None and not _is_python(cell.source))

    def _write(self, i: int, stub: NotebookNode) -> None:
        number = exercise(stub)
        found = self._marked(i)
        if len(found) > 1:
            self.notes.append(
                f"Exercise {number}: {len(found)} cells have its mark; their texts are joined."
            )
        if found and self.cells[found[-1]].kind == "code":
            self.notes.append(f"Exercise {number}: the text stood in a code cell.")
        if self.texts[number]:
            self.notes.append(
                f"Exercise {number}: text was found in cells without the lab's mark, by its place."
            )
            found += self.texts[number]
        if found:
            stub.source = "\n\n".join(self.cells[k].source for k in sorted(found))
            pictures = {k: v for j in found for k, v in self.cells[j].attachments.items()}
            if pictures:
                stub.attachments = pictures
        elif i not in self.place:
            self.notes.append(f"Exercise {number}: its cell is missing, and no answer was found.")

    def _note_changed_checks(self) -> None:
        for i, ours in enumerate(self.lab.cells):
            if not is_graded(ours) or is_answer(ours):
                continue
            number = exercise(ours)
            if i not in self.place:
                self.notes.append(f"Exercise {number}: its check was missing and is put back.")
            elif not any(self._is_ours(k) for k, place in enumerate(self.place) if place == i):
                self.notes.append(
                    f"Exercise {number}: its check was changed; the lab's own is run."
                )


def _is_python(source: str) -> bool:
    try:
        ast.parse(re.sub(r"^[ \t]*[%!?].*$", "", source[:100_000], flags=re.M))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def mend(release: NotebookNode, cells: list[Cell]) -> tuple[NotebookNode, list[str]]:
    """Return the release with the student's answers in it, and what was mended, in words."""
    mender = Mender(release, cells)
    return mender.mend(), mender.notes
