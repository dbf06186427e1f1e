"""Grade what a class handed in: `make grade SUBMISSIONS=dir LAB=05`.

SUBMISSIONS is what Canvas, Moodle or Colab gives, unpacked: a folder with a notebook a student
(`smith_12345_01-entropy.ipynb`: the student is what stands before the lab's name), or with a
folder a student (`smith/01-entropy.ipynb`, `smith_77_assignsubmission_file_/01-entropy.ipynb`).

Each student's answers are put into a pristine copy of the lab (`mend.py`), which runs apart from
everything else (`sandbox.py`). `nbgrader autograde` then scores the outputs, here, without running
anything. What comes out is in a folder only for you, `graded/01-entropy`:

grades.csv   a row a student: the score, and the points of each exercise
report.md    what was mended, what failed, and how far the submissions were kept apart
answers.md   the written answers, and rubric.md, how to mark them
points.csv   where the points for written answers go; then type the same command again
course       the whole as a course of nbgrader, for its Formgrader or `generate_feedback`; started
             there, nbgrader runs no submission
"""

import argparse
import csv
import hashlib
import json
import os
import re
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from make_labs import exercises, lab_source, nbgrader
from mend import Cell, Unreadable, exercise, is_answer, is_graded, mend, read_cells, recognised
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.api import Gradebook, MissingEntry
from sandbox import LEVELS, MOST_PRINTED, Limits, Run, find_level, run, works
from set_address import ROOT

KEPT_APART = {
    "namespaces": (
        "Each submission ran in namespaces of its own: it saw no files but the system's, Python's, "
        "`distill_lib` and its own notebook, no network and no other process. Not the solutions, "
        "not the grades, not another student's work."
    ),
    "user": (
        "Each submission ran as a user of its own, who can't reach this folder. It had the "
        "network, and could read and change what every user of this machine can: **the chapters "
        "with their solutions, `distill_lib` and what was handed in, where their permissions "
        "let all users**."
    ),
    "none": (
        "**The submissions were not kept apart: their code ran as the user who graded them, and "
        "could read and change whatever that user can: the solutions, other students' work, "
        "these grades.** Grade on Linux, as root or where users may make namespaces, or in a "
        "container that holds nothing else."
    ),
}
ALWAYS = (
    "Nothing keeps a submission from what is public (the book has its solutions, and "
    "`distill_lib.checks` its references), nor from tampering with a check inside its own "
    "notebook, where both run. Below, *look at it* marks code with words that an answer rarely "
    "needs."
)
CONFIG = """\
# Written by tools/grade.py: what nbgrader is to do in this folder, and so its Formgrader's button
# Autograde. It scores the outputs that are there, of a run that was kept apart, and runs nothing.
c = get_config()
c.Execute.enabled = False
c.ClearOutput.enabled = False"""
UNUSUAL = re.compile(
    r"\b(check\.\w+ *=|check *=|distill_lib\.checks|subprocess|ctypes|socket|inspect|importlib"
    r"|__import__|sys\.modules|builtins|get_ipython|os\.\w+|eval|exec|gradebook|result\.json)"
)


@dataclass
class Submission:
    """What a student handed in, and what was found out about it."""

    student: str
    paths: list[Path]
    notes: list[str] = field(default_factory=list)
    notebook: NotebookNode | None = None  # the release with the answers in it; none: zero points
    is_scored: bool = True  # by nbgrader


def main(arguments: list[str] | None = None) -> Path:
    """Grade, and return the folder with the results."""
    options = parse(arguments)
    stem = find_lab(options.lab)
    if not options.submissions.is_dir():
        sys.exit(f"SUBMISSIONS: there is no folder {options.submissions}")
    submissions = collect(options.submissions, stem)
    if not submissions:
        sys.exit(f"SUBMISSIONS: {options.submissions} is empty")
    out = (options.out or ROOT / "graded" / stem).resolve()  # nbgrader runs in another folder
    if any(lab.name != stem for lab in (out / "course" / "source").glob("[0-9][0-9]-*")):
        sys.exit(f"OUT: {out} has the grades of another lab: name a folder for {stem} alone")
    out.mkdir(parents=True, exist_ok=True)
    out.chmod(0o700)
    release = make_release(out / "course", stem)
    labs = {
        path.stem: nbformat.read(path, as_version=4) for path in (ROOT / "labs").glob("*.ipynb")
    }
    for submission in submissions:
        prepare(submission, release, labs | {stem: release})
    level = options.isolation or find_level()
    if options.isolation not in (None, "none") and not works(level):
        sys.exit(f"The isolation {level!r} does not work on this machine.")
    limits = Limits(options.cell_limit, options.total_limit, options.memory_limit)
    limits.threads = max(1, (os.cpu_count() or 1) // options.jobs)
    print(f"{len(submissions)} submissions of {stem}; isolation: {level}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        graded = pool.map(
            lambda submission: run_one(submission, release, out, level, limits), submissions
        )
        for submission, notebook in zip(submissions, graded, strict=True):
            print(f"  {submission.student}: {len(submission.notes)} remarks", flush=True)
            folder = out / "course" / "submitted" / submission.student / stem
            save(notebook, folder / f"{stem}.ipynb")
    autograde(out / "course", stem, submissions)
    write_results(out, stem, submissions, release, f"{KEPT_APART[level]} {ALWAYS}")
    print(f"{out / 'grades.csv'}\n{out / 'report.md'}")
    return out


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("submissions", type=Path, help="a folder")
    parser.add_argument("lab", help="its number, say 05")
    parser.add_argument("--out", type=Path, help="where the results go (graded/LAB)")
    parser.add_argument("--cell-limit", type=int, default=120, help="seconds for a cell")
    parser.add_argument("--total-limit", type=int, default=600, help="seconds for a submission")
    parser.add_argument("--memory-limit", type=int, default=4000, help="MB for a process")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    parser.add_argument("--isolation", choices=LEVELS, help="the best that there is")
    return parser.parse_args(arguments)


def find_lab(lab: str) -> str:
    """Return the name of a lab from its number."""
    stems = sorted(path.stem for path in (ROOT / "labs").glob("*.ipynb"))
    for stem in stems:
        if lab == stem or (lab.isdecimal() and stem.startswith(f"{int(lab):02d}-")):
            return stem
    sys.exit(f"LAB: there is no lab {lab!r}; there are {', '.join(stems)}")


def collect(folder: Path, stem: str) -> list[Submission]:
    """Return a submission for each student in the folder, and for each file that is none."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if hidden or holds_files(path):
            continue
        is_folder = len(parts) > 1 or os.path.isdir(path)
        name = parts[0] if is_folder else name_in_file(path.stem, stem)
        name = re.sub(r"_assignsubmission_\w+$", "", name)
        files.setdefault(re.sub(r"[^\w@.-]+", "-", name).strip("-.") or "student", []).append(path)
    return [Submission(student, paths) for student, paths in files.items()]


def holds_files(path: Path) -> bool:
    """Whether this is a folder that has something in it, and can be read."""
    try:
        return path.is_dir() and not path.is_symlink() and any(path.iterdir())
    except OSError:
        return False


def name_in_file(name: str, stem: str) -> str:
    """Return the student in the name of a file: what stands before the name of the lab."""
    pattern = re.escape(stem).replace(r"\-", "[-_ ]")
    match = re.match(rf"(.+?)[-_ ]+{pattern}", name)
    return match[1] if match else name


def make_release(course: Path, stem: str) -> NotebookNode:
    """Make the course's assignment from the chapter, and return what students were given."""
    chapter = nbformat.read(ROOT / "chapters" / f"{stem}.ipynb", as_version=4)
    save(lab_source(chapter, stem), course / "source" / stem / f"{stem}.ipynb")
    save_text(course / "nbgrader_config.py", [CONFIG])
    nbgrader(course, "generate_assignment", stem, "--force")
    return nbformat.read(course / "release" / stem / f"{stem}.ipynb", as_version=4)


def prepare(submission: Submission, release: NotebookNode, labs: dict[str, NotebookNode]) -> None:
    """Choose the student's notebook and mend it. Nothing that it holds can stop the others."""
    found: list[tuple[int, Path, list[Cell]]] = []
    for path in submission.paths:
        try:
            if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
                raise Unreadable("the folder can't be opened.")
            if path.is_symlink() or not path.is_file() or path.suffix != ".ipynb":
                raise Unreadable("it is no notebook (.ipynb).")
            cells = read_cells(path)
            found.append((recognised(cells, release), path, cells))
        except Unreadable as error:
            submission.notes.append(f"{quoted(path.name)} was not graded: {error}")
        except Exception as error:
            submission.notes.append(f"{quoted(path.name)} was not graded: {type(error).__name__}.")
    if not found:
        submission.notes.append("**No notebook could be read: zero points.**")
        return
    n_ours, path, cells = max(found, key=lambda item: (item[0], item[1].stat().st_mtime))
    if len(found) > 1:
        submission.notes.append(
            f"{len(found)} notebooks; graded is {quoted(path.name)}, which has most of this lab's "
            "exercises, and of equals is the newest."
        )
    counts = {stem: recognised(cells, lab) for stem, lab in labs.items()}
    best = max(counts, key=lambda stem: counts[stem])
    if counts[best] > n_ours:
        submission.notes.append(f"**This is another lab, {best}: zero points.**")
    elif not n_ours:
        submission.notes.append("**It holds none of this lab's exercises: zero points.**")
    else:
        try:
            submission.notebook, notes = mend(release, cells)
            submission.notes += notes
        except Exception as error:
            submission.notes.append(
                f"**It could not be mended: {quoted(repr(error))}. Zero points.**"
            )


def run_one(
    submission: Submission,
    release: NotebookNode,
    out: Path,
    level: str,
    limits: Limits,
) -> NotebookNode:
    """Return the student's notebook with the outputs of a run; never fail."""
    try:
        if submission.notebook is not None:
            return run_notebook(submission, release, out, level, limits)
    except Exception as error:  # of ours, for there is no telling what a submission brings up
        submission.notes.append(f"**It could not be graded: {quoted(repr(error))}. Zero points.**")
    return with_outputs(deepcopy(release), Run([], "there was nothing to run"), submission.notes)


def run_notebook(
    submission: Submission,
    release: NotebookNode,
    out: Path,
    level: str,
    limits: Limits,
) -> NotebookNode:
    """Run the student's notebook, unless it ran before, and take over the outputs."""
    notebook = submission.notebook
    assert notebook is not None
    submission.notes += unusual(notebook, release)
    text = nbformat.writes(notebook)
    kept = out / "runs" / f"{fingerprint(text)}.json"
    if kept.exists():
        result = Run(json.loads(kept.read_text("utf-8")), None)
    else:
        result = run(text, level, limits)
        if result.failure is None and "CellTimeoutError" not in json.dumps(result.cells):
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(result.cells), "utf-8")
    if result.failure is not None:
        submission.notes.append(f"**The run was stopped: {result.failure}.**")
    return with_outputs(notebook, result, submission.notes)


def fingerprint(notebook: str) -> str:
    """Return what tells a run from all others: the notebook, and the library that checks it."""
    code = [path.read_bytes() for path in sorted((ROOT / "distill_lib").rglob("*.py"))]
    return hashlib.sha256(b"\0".join([notebook.encode(), *code])).hexdigest()


def unusual(notebook: NotebookNode, release: NotebookNode) -> list[str]:
    """Return a note on words that an answer rarely needs."""
    ours = {cell.source for cell in release.cells}
    code = [c.source for c in notebook.cells if c.cell_type == "code" and c.source not in ours]
    words = sorted({word for source in code for word in UNUSUAL.findall(source)})
    return (
        [f"Look at it: the code has {', '.join(f'`{word}`' for word in words)}."] if words else []
    )


def with_outputs(notebook: NotebookNode, result: Run, notes: list[str]) -> NotebookNode:
    """Write a run's outputs into the notebook; only they are taken over from it.

    nbgrader gives a check its points unless there is an error. So one is added where the check was
    not reached, or ended without its tick.
    """
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        ran = result.cells[i] if i < len(result.cells) else {}
        outputs = ran["outputs"] if isinstance(ran.get("outputs"), list) else []
        cell.outputs = [*filter(None, map(safe_output, outputs[:100]))]
        errors = [output for output in cell.outputs if output.output_type == "error"]
        name = f"Exercise {exercise(cell)}" if exercise(cell) else "A cell outside the exercises"
        if is_graded(cell):
            # What is written to stderr, a progress bar say, is no failure; a value is no grade.
            cell.outputs = [o for o in cell.outputs if o.get("name") == "stdout"] + errors
            if not errors and "✓" not in "".join(o.get("text", "") for o in cell.outputs):
                reason = "the check ended without its tick" if ran else "the check was not reached"
                errors = [new_output("error", ename="NoTick", evalue=reason, traceback=[reason])]
                cell.outputs += errors
        if errors and result.cells:
            notes.append(f"{name}: {said(errors[-1])}")
    return notebook


def said(error: NotebookNode) -> str:
    """Return an error in one line, as plain text."""
    text = "it took too long" if error.ename == "CellTimeoutError" else error.evalue
    return quoted(f"{error.ename}: {text}".removesuffix(": "))


def quoted(text: str) -> str:
    """Return a student's words in one line that can't be taken for the report's."""
    line = " ".join(text.split()).replace("`", "'")[:200]
    return f"`{line}`"


def safe_output(output: Any) -> NotebookNode | None:
    """Return an output made anew from what can be trusted to be text or a picture."""
    if not isinstance(output, dict):
        return None
    kind, data = output.get("output_type"), output.get("data")
    text = {k: clean(output.get(k)) for k in ("name", "ename", "evalue")}
    if kind == "error":
        trace = output.get("traceback")
        lines = [clean(line) for line in trace[:100]] if isinstance(trace, list) else []
        return new_output("error", ename=text["ename"], evalue=text["evalue"], traceback=lines)
    if kind == "stream":
        name = "stderr" if text["name"] == "stderr" else "stdout"
        return new_output("stream", name=name, text=clean(output.get("text"), MOST_PRINTED))
    if isinstance(data, dict):
        shown = {k: data[k] for k in ("text/plain", "image/png") if isinstance(data.get(k), str)}
        shown = {k: clean(v, 5_000_000) for k, v in shown.items()}
        return new_output("display_data", data=shown)
    return None


def clean(value: object, longest: int = 20_000) -> str:
    """Return text that can be written to a file."""
    return str(value or "")[:longest].encode("utf-8", "replace").decode()


def autograde(course: Path, stem: str, submissions: list[Submission]) -> None:
    """Have nbgrader score the outputs of all, and where it fails, of one after the other."""
    command = ("autograde", stem, "--no-execute", "--force")
    try:
        nbgrader(course, *command)
    except RuntimeError:
        for submission in submissions:
            try:
                nbgrader(course, *command, f"--student={submission.student}")
            except RuntimeError as error:
                last = str(error).strip().split("\n")[-1]
                submission.notes.append(
                    f"**nbgrader could not score it: {quoted(last)}. Zero points.**"
                )
                submission.notebook, submission.is_scored = None, False


def write_results(
    out: Path, stem: str, submissions: list[Submission], release: NotebookNode, isolation: str
) -> None:
    """Write the grades as CSV, the report, and what is needed for marking by hand."""
    graded = {c.metadata.nbgrader.grade_id: c for c in release.cells if is_graded(c)}
    with Gradebook(f"sqlite:///{out}/course/gradebook.db") as gradebook:
        by_hand = {exercise(cell): name for name, cell in graded.items() if is_answer(cell)}
        entered = enter_points(gradebook, out / "points.csv", stem, by_hand)
        rows = [grades_of(submission, gradebook, stem, graded) for submission in submissions]
    changed = find_changed(out / "course" / "marked.json", submissions, rows, release, entered)
    write_csv(out / "grades.csv", list(rows[0]), rows)
    points, answers = [], []
    for submission, row in zip(submissions, rows, strict=True):
        for cell in written(submission, release, changed):
            number, most = exercise(cell), cell.metadata.nbgrader.points
            given = row[f"exercise {number}"]
            if (row["student"], number) in changed:
                given = None
            points.append(
                {"student": row["student"], "exercise": number, "max": most, "points": given}
            )
            # Quoted, so that no answer can go on as another student's.
            text = textwrap.indent(cell.source, "> ", lambda _: True)
            answers.append(f"## Exercise {number}: {row['student']}\n\n{text}")
    write_csv(out / "points.csv", ["student", "exercise", "max", "points"], points)
    save_text(out / "answers.md", [f"# Written answers: {stem}", *sorted(answers)])
    save_text(out / "rubric.md", [f"# How to mark the written answers: {stem}", *rubric(stem)])
    save_text(out / "report.md", report(stem, submissions, rows, isolation))


def grades_of(
    submission: Submission, gradebook: Gradebook, stem: str, graded: dict[str, NotebookNode]
) -> dict[str, Any]:
    """Return a student's row of the grades; points still to be given by hand are empty."""
    grades = {}
    if submission.is_scored:
        notebook = gradebook.find_submission_notebook(stem, stem, submission.student)
        grades = {grade.name: grade for grade in notebook.grades}
    points: dict[str, float | None] = {}
    waiting = 0
    for name, cell in graded.items():
        grade, number = grades.get(name), exercise(cell)
        if grade is None:
            points[f"exercise {number}"] = 0.0
        elif grade.auto_score is None and grade.manual_score is None:
            points[f"exercise {number}"] = None
            waiting += cell.metadata.nbgrader.points
            submission.notes.append(f"Exercise {number} waits for its points.")
        else:
            points[f"exercise {number}"] = grade.score
    return {
        "student": submission.student,
        "lab": stem,
        "score": float(sum(filter(None, points.values()))),
        "max": sum(cell.metadata.nbgrader.points for cell in graded.values()),
        "to be graded by hand": waiting,
        **points,
    }


def enter_points(
    gradebook: Gradebook, path: Path, stem: str, names: dict[str, str]
) -> set[tuple[str, str]]:
    """Enter the points given by hand, which nbgrader keeps from now on, and return whose."""
    entered: set[tuple[str, str]] = set()
    if not path.exists():
        return entered
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if not {"student", "exercise", "points"} <= set(table.fieldnames or ()):
            sys.exit(f"{path}: it should begin with `student,exercise,max,points`")
        for row in table:
            if not (row["points"] or "").strip():
                continue
            if row["exercise"] not in names:
                sys.exit(f"{path}: exercise {row['exercise']} is not graded by hand")
            try:
                points = float(row["points"])
                grade = gradebook.find_grade(names[row["exercise"]], stem, stem, row["student"])
            except (ValueError, MissingEntry) as error:
                sys.exit(f"{path}: {row['student']}: {error}")
            if not 0 <= points <= grade.max_score:
                sys.exit(f"{path}: {row['student']} has {points} of {grade.max_score} points")
            grade.manual_score, grade.needs_manual_grade = points, False
            entered.add((row["student"], row["exercise"]))
        gradebook.db.commit()
    return entered


def find_changed(
    path: Path,
    submissions: list[Submission],
    rows: list[dict[str, Any]],
    release: NotebookNode,
    entered: set[tuple[str, str]],
) -> set[tuple[str, str]]:
    """Note and return which written answers are not those that points were given for.

    The file at `path` has, for each answer, what the instructor was shown the last time, what the
    points are for, and the points. They may have been given in Formgrader, too.
    """
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    after, changed = dict(before), set()
    for submission, row in zip(submissions, rows, strict=True):
        for cell in answers_in_words(submission, release) if submission.is_scored else []:
            student, number = submission.student, exercise(cell)
            points = row[f"exercise {number}"]
            text = json.dumps([cell.source, cell.get("attachments")], sort_keys=True)
            shown = hashlib.sha256(text.encode()).hexdigest()
            old = before.get(
                f"{student} {number}", {"shown": shown, "marked": None, "points": None}
            )
            marked = old["marked"]
            if points is None:
                marked = None
            elif (student, number) in entered or marked is None or points != old["points"]:
                marked = old["shown"]
            if marked not in (None, shown):
                changed.add((student, number))
                submission.notes.append(
                    f"Exercise {number}: the answer has changed since its points were given: "
                    f"{points:g}, which are kept. Read it again, and enter its points once more."
                )
            after[f"{student} {number}"] = {"shown": shown, "marked": marked, "points": points}
    path.write_text(json.dumps(after, indent=1), "utf-8")
    return changed


def written(
    submission: Submission, release: NotebookNode, changed: set[tuple[str, str]]
) -> list[NotebookNode]:
    """Return the written answers: all but the untouched stubs, if those are new."""
    stubs = {cell.source for cell in release.cells}
    return [
        cell
        for cell in answers_in_words(submission, release)
        if cell.source not in stubs or (submission.student, exercise(cell)) in changed
    ]


def answers_in_words(submission: Submission, release: NotebookNode) -> list[NotebookNode]:
    """Return the cells of the written answers; those of the release, if nothing could be read."""
    cells = (submission.notebook or release).cells
    return [cell for cell in cells if is_graded(cell) and is_answer(cell)]


def rubric(stem: str) -> list[str]:
    """Return question and model answer of each exercise in words."""
    chapter = nbformat.read(ROOT / "chapters" / f"{stem}.ipynb", as_version=4)
    cells = exercises(chapter)
    numbers = [exercise(cell) for cell in cells if is_answer(cell) and is_graded(cell)]
    return [c.source for c in cells if c.cell_type == "markdown" and exercise(c) in numbers]


def report(
    stem: str, submissions: list[Submission], rows: list[dict[str, Any]], isolation: str
) -> list[str]:
    """Return the report, paragraph by paragraph."""
    table = ["| student | score | of | by hand, still | remarks |", "|---|---|---|---|---|"]
    for row, submission in zip(rows, submissions, strict=True):
        cells = (row["student"], row["score"], row["max"], row["to be graded by hand"])
        table.append(f"| {' | '.join(map(str, cells))} | {len(submission.notes)} |")
    by_hand = (
        "The written answers are in `answers.md`, question and model answer in `rubric.md`. Write "
        "the points into `points.csv` and type the same command again: it runs only what is new, "
        "and adds them to `grades.csv`. Or mark them in nbgrader's Formgrader, in Jupyter started "
        "in `course`, and nowhere else: the file `nbgrader_config.py` that lies there has its "
        "*Autograde* score what is there, and without it that runs a submission as you."
    )
    remarks = []
    for submission in submissions:
        lines = [f"- {note}" for note in submission.notes] or ["- Nothing to remark."]
        remarks.append("\n".join([f"### {submission.student}\n", *lines]))
    return [
        f"# {stem}: {len(submissions)} submissions",
        "\n".join(table),
        "## Marking by hand",
        by_hand,
        "## What the submissions could reach",
        isolation,
        "## Remarks",
        *remarks,
    ]


def write_csv(path: Path, header: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a table, as a spreadsheet reads it."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)


def save_text(path: Path, paragraphs: list[str]) -> None:
    """Write paragraphs to a file."""
    path.write_text("\n\n".join(paragraphs) + "\n", "utf-8")


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
