"""Grading, played through with the real nbgrader, and the mending of notebooks before it."""

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import grade
import nbformat
import pytest
from mend import Unreadable, exercise, is_answer, is_graded, mend, read_cells, recognised
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.api import Gradebook
from sandbox import find_level
from set_address import ROOT

STEM = "01-entropy"
RELEASE = nbformat.read(ROOT / "labs" / f"{STEM}.ipynb", as_version=4)
SOURCES = {
    cell.id: cell.source
    for cell in nbformat.read(ROOT / "chapters" / f"{STEM}.ipynb", as_version=4).cells
}
POINTS = {"1": 1, "2": 2, "3": 2, "4": 3, "5": 3, "6": 3}
SIX = "The entropy of the target is not what the student learns."


def at(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def answered(*numbers):
    """The lab with the right answers to these exercises."""
    notebook = copy.deepcopy(RELEASE)
    for number in numbers:
        cell = at(notebook, f"exercise-{number}-answer")
        cell.source = SOURCES[cell.id] if cell.cell_type == "code" else SIX
    return notebook


def perfect():
    return answered(*POINTS)


def insert_before(notebook, name, *cells):
    where = notebook.cells.index(at(notebook, name))
    notebook.cells[where:where] = cells


def from_colab(notebook):
    """As Colab saves it: no cell ids (they are in the metadata, made anew), its own metadata."""
    raw = json.loads(nbformat.writes(notebook))
    raw |= {"nbformat_minor": 0}
    raw["metadata"] |= {"colab": {"provenance": [], "toc_visible": True}, "accelerator": "GPU"}
    for number, cell in enumerate(raw["cells"]):
        cell.pop("id")
        cell["metadata"] |= {"id": f"kX{number}", "outputId": "7", "colab": {"height": 17}}
        if cell["cell_type"] == "code":
            shown = {"output_type": "stream", "name": "stdout", "text": ["✓ perplexity\n"]}
            cell |= {"outputs": [shown], "execution_count": 3}
    return raw


def colab_been_at():
    """Cells made anew and copied, a helper, an answer in a text cell, another without marks."""
    notebook = perfect()
    for name in ("exercise-1-answer", "exercise-1-check", "exercises-setup", "exercise-6-answer"):
        del at(notebook, name).metadata["nbgrader"]
    wrong = copy.deepcopy(at(notebook, "exercise-2-answer"))
    wrong.id, wrong.source = "copy", "def shannon_code_lengths(p):\n    return p"
    insert_before(notebook, "exercise-2-answer", wrong)
    four = at(notebook, "exercise-4-answer")
    helper = four.source.replace("def temperature_for_entropy", "def helper")
    four.source = "def temperature_for_entropy(logits, target):\n    return helper(logits, target)"
    insert_before(notebook, "exercise-4-answer", new_code_cell(helper, id="helper"))
    where = notebook.cells.index(five := at(notebook, "exercise-5-answer"))
    notebook.cells[where] = new_markdown_cell(five.source, id=five.id, metadata=five.metadata)
    notebook.cells = [c for c in notebook.cells if c.id != "exercise-3-check"]
    return from_colab(notebook)


def hard_coded():
    notebook = perfect()
    at(
        notebook, "exercise-1-answer"
    ).source = "def perplexity(p):\n    return np.full(p.shape[:-1], 4)"
    at(
        notebook, "exercise-2-answer"
    ).source = "def shannon_code_lengths(p):\n    return np.array([1, 2, 3, 3])"
    return notebook


def crashed():
    """An error in a cell of the student's own, and a kernel that dies in exercise 4."""
    notebook = perfect()
    insert_before(notebook, "exercise-2", new_code_cell("1 / 0", id="crash"))
    at(
        notebook, "exercise-4-answer"
    ).source = "import os\n\ndef temperature_for_entropy(logits, target):\n    os._exit(1)"
    return notebook


def endless():
    notebook = perfect()
    at(
        notebook, "exercise-3-answer"
    ).source = (
        "import time\n\ndef draw_smoothing(ax, n_classes):\n    while True:\n        time.sleep(1)"
    )
    return notebook


def malicious(secrets):
    """Reads and writes what it should not, gives itself points, and empties its checks."""
    notebook = copy.deepcopy(RELEASE)
    attack = f"""
import json, os
done = []
for name in {[str(path) for path in secrets]}:
    for mode in ("r", "a"):
        try:
            with open(name, mode) as file:
                done.append((mode, name))
                if mode == "a" and "secret" in name:
                    file.write("no longer")
        except OSError:
            pass
for name in ("grades.csv", "gradebook.db", "lab.ipynb", "result.json"):
    with open(name, "w") as file:
        file.write(json.dumps([{{"outputs": [], "points": 100}}] * 99))
print("score: 100", "reached:", done)
"""
    for cell in notebook.cells:
        if is_graded(cell):
            cell.metadata.nbgrader.points = 100
            cell.source = "100.0" if cell.cell_type == "code" else cell.source
    insert_before(notebook, "exercise-1", new_code_cell(attack, id="attack"))
    notebook.cells.append(new_code_cell("print('✓'); 100.0", id="more", metadata={"points": 100}))
    return notebook


def write(notebook, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook), "utf-8")


def write_huge(path, megabytes=500):
    """A perfect answer below an output of 500 MB."""
    before, after = json.dumps(perfect()).split('"outputs": []', 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(before + '"outputs": [{"output_type": "stream", "name": "stdout", "text": ["')
        for _ in range(megabytes):
            file.write("0123456789 ]}\\n" * 66_667)
        file.write(f'\\""]}}]{after}')


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("class")


@pytest.fixture(scope="module")
def secrets(place):
    """What no submission may reach."""
    secret = place / "graded" / "secret.txt"
    write("mine alone", secret)
    return [
        secret,
        place / "graded" / "course" / "source" / STEM / f"{STEM}.ipynb",
        place / "graded" / "course" / "gradebook.db",
        place / "in" / f"empty_1_{STEM}.ipynb",
        ROOT / "chapters" / f"{STEM}.ipynb",
        ROOT / "README.md",
    ]


@pytest.fixture(scope="module")
def out(place, secrets):
    """What an instructor gets for a class in which everything happens."""
    folder = place / "in"
    write(answered(), folder / f"empty_1_{STEM}.ipynb")
    write(perfect(), folder / f"perfect_2_{STEM}-1.ipynb")  # handed in again, in Canvas
    write(answered("1", "2", "4"), folder / "half_3_assignsubmission_file_" / f"{STEM}.ipynb")
    write(hard_coded(), folder / f"hard_4_{STEM}.ipynb")
    write(crashed(), folder / "crashed" / "Copy of 01_entropy (1).ipynb")
    write(colab_been_at(), folder / "colab" / "Untitled.ipynb")
    write(endless(), folder / "endless" / f"{STEM}.ipynb")
    write_huge(folder / "huge" / f"{STEM}.ipynb")
    write(json.dumps(perfect())[:9000], folder / "cut_off" / f"{STEM}.ipynb")
    write("%PDF-1.7", folder / "printed" / f"{STEM}.pdf")
    (folder / "nothing").mkdir()
    other = nbformat.read(ROOT / "labs" / "02-kl-divergence.ipynb", as_version=4)
    write(other, folder / "other" / f"{STEM}.ipynb")
    write(malicious(secrets), folder / "malicious" / f"{STEM}.ipynb")
    before = [path.read_bytes() for path in secrets if path.is_relative_to(ROOT)]
    arguments = [str(folder), "1", "--out", str(place / "graded"), "--jobs", "2"]
    out = grade.main([*arguments, "--cell-limit", "45"])
    assert [path.read_bytes() for path in secrets if path.is_relative_to(ROOT)] == before
    return out


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def remarks(out, student):
    return (out / "report.md").read_text("utf-8").split(f"### {student}\n")[1].split("\n### ")[0]


@pytest.mark.parametrize(
    ("student", "right"),
    {
        "perfect_2": "12345",
        "empty_1": "",
        "half_3": "124",
        "hard_4": "345",
        "crashed": "123",
        "colab": "12345",
        "endless": "1245",
        "huge": "12345",
        "cut_off": "",
        "printed": "",
        "nothing": "",
        "other": "",
        "malicious": "",
    }.items(),
)
def test_each_gets_the_right_points(out, student, right):
    row = rows(out / "grades.csv")[student]
    points = {n: float(row[f"exercise {n}"]) for n in "12345"}
    assert points == {n: POINTS[n] if n in right else 0 for n in "12345"}, remarks(out, student)
    assert float(row["score"]) == sum(points.values())
    assert float(row["max"]) == sum(POINTS.values())
    wrote = student not in (
        "empty_1",
        "half_3",
        "cut_off",
        "printed",
        "nothing",
        "other",
        "malicious",
    )
    assert float(row["to be graded by hand"]) == (3 if wrote else 0)
    assert row["exercise 6"] == ("" if wrote else "0.0")


@pytest.mark.parametrize(
    ("student", "words"),
    {
        "hard_4": ["Exercise 1: `AssertionError: perplexity", "Exercise 2: `AssertionError:"],
        "crashed": [
            "ZeroDivisionError",
            "its kernel died",
            "Exercise 5: `NoTick: the check was not",
        ],
        "colab": [
            "Exercise 1: the answer was found by its function's name, `perplexity`",
            "Exercise 2: 2 cells have its mark",
            "Exercise 3: its check was missing",
            "Exercise 5: the answer stood in a text cell",
            "Exercise 6: text was found in cells without the lab's mark",
            "Code cells that were added or changed: 2",
        ],
        "endless": ["Exercise 3: `CellTimeoutError: it took too long`"],
        "cut_off": ["was the download cut off?", "zero points"],
        "printed": ["no notebook", "zero points"],
        "nothing": ["zero points"],
        "other": ["This is another lab, 02-kl-divergence"],
        "malicious": ["Look at it:", "Exercise 1: its check was changed; the lab's own is run"],
    }.items(),
)
def test_the_report_says_what_was_mended_and_what_failed(out, student, words):
    for word in words:
        assert word in remarks(out, student)


def test_a_malicious_submission_reaches_nothing_where_it_is_kept_apart(out, secrets):
    report = (out / "report.md").read_text("utf-8")
    ran = nbformat.read(out / "course" / "autograded" / "malicious" / STEM / f"{STEM}.ipynb", 4)
    printed = "".join(o.get("text", "") for c in ran.cells for o in c.get("outputs", []))
    assert "score: 100" in printed
    level = next(level for level, words in grade.KEPT_APART.items() if words in report)
    assert level == find_level()
    if level == "namespaces":
        assert "reached: []" in printed
        assert secrets[0].read_text() == "mine alone"
    elif level == "none":
        assert "were not kept apart" in report
    else:
        assert str(out) not in printed


def scores(out):
    with Gradebook(f"sqlite:///{out}/course/gradebook.db") as gradebook:
        return {s.student.id: s.score for s in gradebook.assignment_submissions(STEM)}


def test_nbgrader_itself_runs_nothing_in_the_course(out, secrets):
    """Nor does Formgrader's button, which calls it: both read the file that lies there."""
    secrets[0].write_text("mine alone")
    before = scores(out)
    assert before["perfect_2"] == 11 and before["malicious"] == 0
    subprocess.run(
        [sys.executable, "-m", "nbgrader", "autograde", STEM, "--force"],
        cwd=out / "course",
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )
    assert scores(out) == before
    assert secrets[0].read_text() == "mine alone"


def test_one_that_nbgrader_cannot_score_spoils_nothing_for_the_others(out, tmp_path, monkeypatch):
    asked = []

    def nbgrader(course, *arguments):
        asked.append(arguments[-1])
        if arguments[-1] != "--student=perfect_2":
            raise RuntimeError("nbgrader failed:\nTraceback\nKeyError: 'cells'")

    monkeypatch.setattr(grade, "nbgrader", nbgrader)
    (tmp_path / "course").mkdir()
    shutil.copy(out / "course" / "gradebook.db", tmp_path / "course")
    submissions = [grade.Submission(name, [], [], perfect()) for name in ("bad", "perfect_2")]
    grade.autograde(tmp_path / "course", STEM, submissions)
    assert asked == ["--force", "--student=bad", "--student=perfect_2"]
    grade.write_results(tmp_path, STEM, submissions, RELEASE, "")
    table = rows(tmp_path / "grades.csv")
    assert [table[name]["score"] for name in ("bad", "perfect_2")] == ["0.0", "11.0"]
    assert table["bad"]["to be graded by hand"] == "0"
    assert "could not score it: `KeyError: 'cells'`. Zero points" in remarks(tmp_path, "bad")
    assert "bad" not in rows(tmp_path / "points.csv")


def test_a_folder_is_for_one_lab(tmp_path):
    write(RELEASE, tmp_path / "in" / "one.ipynb")
    (tmp_path / "out" / "course" / "source" / "02-kl-divergence").mkdir(parents=True)
    with pytest.raises(SystemExit, match="another lab"):
        grade.main([str(tmp_path / "in"), "1", "--out", str(tmp_path / "out")])


def test_a_table_of_points_without_its_columns_is_named(tmp_path):
    write("student;exercise;max;points\nsmith;6;3;2\n", tmp_path / "points.csv")
    with pytest.raises(SystemExit, match="should begin with"):
        grade.enter_points(None, tmp_path / "points.csv", STEM, {})


def test_what_a_check_prints_is_kept_up_to_its_tick(tmp_path):
    lab = copy.deepcopy(RELEASE)
    i = lab.cells.index(at(lab, "exercise-1-check"))
    printed = {"output_type": "stream", "name": "stdout", "text": "x" * 50_000 + "\n✓ perplexity\n"}
    cells = [{}] * i + [{"outputs": [printed]}]
    lab = grade.with_outputs(lab, grade.Run(cells, None), notes := [])
    assert "✓" in lab.cells[i].outputs[0].text
    assert not any(note.startswith("Exercise 1") for note in notes)


def test_the_results_are_for_the_instructor_alone(out):
    assert out.stat().st_mode & 0o077 == 0


def test_written_answers_come_with_a_rubric_and_their_points_are_added(out, place):
    assert SIX in (out / "answers.md").read_text("utf-8")
    assert SOURCES["exercise-6-answer"] in (out / "rubric.md").read_text("utf-8")
    table = (out / "points.csv").read_text("utf-8")
    assert "perfect_2,6,3,\n" in table.replace("\r", "")
    (out / "points.csv").write_text(re.sub("(perfect_2,6,3,)", r"\g<1>2.5", table), "utf-8")
    folder = place / "again"  # the same notebook is not run again
    write(perfect(), folder / f"perfect_2_{STEM}.ipynb")
    grade.main([str(folder), STEM, "--out", os.path.relpath(out), "--cell-limit", "1"])
    row = rows(out / "grades.csv")["perfect_2"]
    assert [row[k] for k in ("score", "exercise 6", "to be graded by hand")] == ["13.5", "2.5", "0"]
    assert "perfect_2,6,3,2.5" in (out / "points.csv").read_text("utf-8")
    assert "has changed" not in (out / "report.md").read_text("utf-8")


def test_other_words_after_the_points_are_noted_until_they_are_marked(tmp_path):
    def report(words, points, *, entered):
        notebook = answered("6") if words else copy.deepcopy(RELEASE)
        at(notebook, "exercise-6-answer").source += words
        submission = grade.Submission("smith", [], [], notebook)
        row, entered = {"exercise 6": points}, {("smith", "6")} if entered else set()
        arguments = ([submission], [row], RELEASE, entered)
        changed = grade.find_changed(tmp_path / "marked.json", *arguments)
        assert bool(submission.notes) == bool(changed)
        return submission.notes

    assert report("one", None, entered=False) == []  # read by the instructor, who gives points
    assert report("one", 2.0, entered=True) == []
    assert "since its points were given: 2, which are kept" in report("two", 2.0, entered=False)[0]
    assert report("two", 2.0, entered=False)  # until points are entered, the same ones say
    assert report("two", 2.0, entered=True) == []
    assert report("two", 2.5, entered=False) == []  # or other ones in Formgrader
    assert report("three", 1.0, entered=True)  # for "two", which is what was shown
    assert report("", 1.0, entered=False)  # no words any more


# Mending alone, without running anything


def mended(notebook, tmp_path):
    write(notebook, tmp_path / "lab.ipynb")
    return mend(RELEASE, read_cells(tmp_path / "lab.ipynb"))


def sources(notebook):
    return [cell.source for cell in notebook.cells]


def test_an_untouched_lab_needs_no_mending(tmp_path):
    assert mended(RELEASE, tmp_path) == (RELEASE, [])
    lab, notes = mended(perfect(), tmp_path)
    assert (sources(lab), notes) == (sources(perfect()), [])


def test_answers_are_found_wherever_they_are(tmp_path):
    lab, notes = mended(colab_been_at(), tmp_path)
    for number in "1235":
        name = f"exercise-{number}-answer"
        assert at(lab, name).source == SOURCES[name]
        assert at(lab, name).cell_type == "code"
    assert at(lab, "exercise-6-answer").source == SIX
    names = [cell.id for cell in lab.cells if cell.id in {c.id for c in RELEASE.cells}]
    assert names == [cell.id for cell in RELEASE.cells]
    helper = next(i for i, c in enumerate(lab.cells) if c.source.startswith("def helper"))
    assert lab.cells[helper + 1].id == "exercise-4-answer"
    assert len(notes) == 6


def test_all_marks_and_ids_can_be_lost(tmp_path):
    raw = from_colab(perfect())
    for cell in raw["cells"]:
        cell["metadata"] = {}
    lab, notes = mended(raw, tmp_path)
    assert sources(lab) == sources(perfect())
    assert len(notes) == 6


def test_a_changed_check_is_the_labs_own_again(tmp_path):
    notebook = perfect()
    at(notebook, "exercise-1-check").source = "pass"
    at(notebook, "exercise-1-check").metadata.nbgrader.points = 100
    lab, notes = mended(notebook, tmp_path)
    assert lab == perfect() and "check was changed" in notes[0]


def test_an_answer_below_its_check_is_put_above_it_with_its_helper(tmp_path):
    notebook = answered("1")
    five = SOURCES["exercise-5-answer"]
    cells = [new_code_cell("import math", id="one"), new_code_cell(five, id="two")]
    notebook.cells += cells
    lab, _ = mended(notebook, tmp_path)
    where = sources(lab).index(five)
    assert lab.cells[where].id == "exercise-5-answer"
    assert lab.cells[where - 1].source == "import math"
    assert lab.cells[where + 1].id == "exercise-5-check"


def test_a_changed_setup_runs_after_the_labs_own(tmp_path):
    notebook = perfect()
    at(notebook, "exercises-setup").source += "\nimport math"
    lab, notes = mended(notebook, tmp_path)
    where = lab.cells.index(at(lab, "exercises-setup"))
    assert lab.cells[where].source == at(RELEASE, "exercises-setup").source
    assert any(c.source.endswith("import math") for c in lab.cells[where + 1 : where + 3])
    assert "added or changed: 1" in notes[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '"cells"', '{"cells": 3}', "[" * 100_000, "\x00"])
def test_what_is_no_notebook_is_said_to_be_none(tmp_path, text):
    write(text, tmp_path / "lab.ipynb")
    with pytest.raises(Unreadable):
        read_cells(tmp_path / "lab.ipynb")


def test_strange_cells_do_no_harm(tmp_path):
    strange = [None, {}, {"source": 3}, {"cell_type": [], "metadata": 1, "source": ["\ud800", 1]}]
    strange += [{"cell_type": "code", "source": "x", "metadata": {"nbgrader": {"grade_id": []}}}]
    lab, _ = mended({"cells": strange}, tmp_path)
    nbformat.write(lab, tmp_path / "again.ipynb")
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": "def perplexity(p): ..."}]}]}
    lab, _ = mended(old, tmp_path)
    assert at(lab, "exercise-1-answer").source == "def perplexity(p): ..."


def test_outputs_of_any_size_take_no_memory(tmp_path):
    write_huge(tmp_path / "lab.ipynb", megabytes=50)
    tracemalloc.start()
    lab, _ = mend(RELEASE, read_cells(tmp_path / "lab.ipynb"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    assert sources(lab) == sources(perfect())


def test_outputs_are_cut_out_and_nothing_else(tmp_path):
    notebook = perfect()
    at(notebook, "exercise-1-answer").source = r'x = "\"outputs\": [1, 2]" + "\\" # ]'
    raw = from_colab(notebook)
    raw["cells"][4]["outputs"] = [{"text": ['"outputs": [', "]}]", "\\", "x" * 300, '"' * 200]}] * 9
    write(raw, tmp_path / "lab.ipynb")
    assert [c.source for c in read_cells(tmp_path / "lab.ipynb")] == sources(notebook)


@pytest.mark.parametrize("path", sorted((ROOT / "labs").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_lab_can_be_graded(path):
    """Every check prints the tick that is waited for; every answer can be told from other labs'."""
    lab = nbformat.read(path, as_version=4)
    for cell in lab.cells:
        if is_graded(cell) and not is_answer(cell):
            assert re.fullmatch(r"check\.\w+\(\w+\)", cell.source)
        if is_graded(cell):
            assert exercise(cell)
    cells = [grade.Cell("code", c.source, None, set()) for c in lab.cells if c.cell_type == "code"]
    counts = {
        other.stem: recognised(cells, nbformat.read(other, as_version=4))
        for other in (ROOT / "labs").glob("*.ipynb")
    }
    assert max(counts, key=counts.get) == path.stem


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("smithjohn_12345_67890_01-entropy-1.ipynb", "smithjohn_12345_67890"),
        ("smithjohn_LATE_12345_67890_01-entropy.ipynb", "smithjohn_LATE_12345_67890"),
        ("smith 01_entropy.ipynb", "smith"),
        ("=cmd()|x_01-entropy.ipynb", "cmd-x"),
        ("Jo Smith_77_assignsubmission_file_/any.ipynb", "Jo-Smith_77"),
        ("Jo Smith_77_assignsubmission_file/deeper/any.ipynb", "Jo-Smith_77"),
    ],
)
def test_the_student_is_in_the_name(tmp_path, name, student):
    write("{}", tmp_path / name)
    write("{}", tmp_path / ".ipynb_checkpoints" / "01-entropy-checkpoint.ipynb")
    assert [s.student for s in grade.collect(tmp_path, STEM)] == [student]


@contextmanager
def as_nobody():
    """Root may open every folder."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_folder_that_cannot_be_opened_is_a_remark():
    with as_nobody(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write("{}", folder / "jones" / "lab.ipynb")
        (folder / "smith").mkdir()
        write("{}", folder / "miller" / "deeper" / "lab.ipynb")
        closed = folder / "smith", folder / "miller" / "deeper"
        for path, mode in zip(closed, (0o000, 0o400), strict=True):  # 4: its names can be read
            path.chmod(mode)
        try:
            found = {s.student: s for s in grade.collect(folder, STEM)}
            assert set(found) == {"jones", "smith", "miller"}
            for student in ("smith", "miller"):
                grade.prepare(found[student], RELEASE, {})
                assert "was not graded" in found[student].notes[0]
                assert "zero points" in found[student].notes[1]
        finally:
            for path in closed:
                path.chmod(0o700)
