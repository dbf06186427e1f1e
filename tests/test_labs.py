"""The students' notebooks: fresh, without solutions, and graded by the real nbgrader."""

import base64
import csv
import json
import re

import nbformat
import pytest
from make_labs import FIGURES, exercises, figures_to_reach, lab_source, main, nbgrader
from nbgrader.api import Gradebook
from set_address import ROOT, badge, install_cell, read_address

LABS = sorted((ROOT / "labs").glob("*.ipynb"))


@pytest.fixture(params=LABS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def lab(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def chapter(path):
    return nbformat.read(ROOT / "chapters" / path.name, as_version=4)


def words(text):
    return " ".join(re.findall(r"\w+", text))


def solutions(chapter):
    """What a student must not get, piece by piece: lines of code, sentences, printed results."""
    prose, code = [], []
    for cell in exercises(chapter):
        is_answer = cell.metadata.get("nbgrader", {}).get("solution")
        if cell.cell_type == "code" and is_answer:
            for marked in re.findall(r"BEGIN SOLUTION\n(.*?)### END", cell.source, re.S):
                code += marked.split("\n")
        elif is_answer or "solution" in cell.id.split("-"):
            prose += re.split(r"(?<=[.:;?!])\s|\n", cell.source)
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if "image/png" not in shown:  # a figure's text says what there is to reach
                code += [output.get("text", ""), shown.get("text/plain", "")]
    # Shorter pieces ("Kraft's inequality") say nothing.
    long = [(words(piece), 25) for piece in prose] + [(words(piece), 11) for piece in code]
    return [piece for piece, least in long if len(piece) > least]


def test_there_is_a_lab_for_every_chapter_with_marks_for_grading():
    graded = [
        chapter.name
        for chapter in sorted((ROOT / "chapters").glob("*.ipynb"))
        if '"nbgrader"' in chapter.read_text("utf-8")
    ]
    assert graded and [lab.name for lab in LABS] == graded


def test_labs_are_fresh(tmp_path):
    """`make labs` would write what is there already, to the byte."""
    (tmp_path / "chapters").symlink_to(ROOT / "chapters")
    main(tmp_path)
    for folder in ("labs", FIGURES):
        made = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        kept = {path.name: path.read_bytes() for path in (ROOT / folder).iterdir()}
        assert made.keys() == kept.keys()
        assert [name for name in made if made[name] != kept[name]] == [], "stale: run `make labs`"


def test_no_solution_leaks(lab, chapter):
    everything = words(json.dumps(lab, ensure_ascii=False).replace("\\n", " "))
    secrets = solutions(chapter)
    assert len(secrets) > 20
    for secret in secrets:
        assert secret not in everything
    for mark in ("BEGIN SOLUTION", "END SOLUTION", "<summary>Solution", "model answer"):
        assert mark not in json.dumps(lab)
    assert not any("solution" in cell.id.split("-") for cell in lab.cells)


def test_nothing_is_shown_but_the_figures_to_reach(lab, chapter, path):
    figures = figures_to_reach(chapter)
    shown = {cell.id: cell.outputs for cell in lab.cells if cell.get("outputs")}
    assert shown == {f"{exercise}-target": [figure] for exercise, figure in figures.items()}
    for exercise, figure in figures.items():
        picture = ROOT / FIGURES / f"{path.stem}-{exercise}.png"
        assert picture.read_bytes() == base64.b64decode(figure.data["image/png"])
    for cell in lab.cells:
        assert cell.get("execution_count") is None
        assert "attachments" not in cell and "data:image" not in cell.source


def pictures(notebook):
    return {
        cell.id: output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }


def test_no_picture_leaks_but_the_figures_to_reach(lab, chapter, path):
    """Those are drawn by a locked cell of an exercise, and never by an answer or a solution."""
    shipped = set(pictures(lab).values())
    for picture in (ROOT / FIGURES).glob(f"{path.stem}-*.png"):
        shipped.add(base64.b64encode(picture.read_bytes()).decode())
    drawn = {cell: picture.replace("\n", "") for cell, picture in pictures(chapter).items()}
    to_reach = {cell for cell in drawn if re.fullmatch(r"exercise-\d+-figure", cell)}
    assert {picture.replace("\n", "") for picture in shipped} == {drawn[c] for c in to_reach}
    for cell in chapter.cells:
        if cell.id in to_reach:
            mark = cell.metadata.nbgrader
            assert mark.locked and not mark.solution, cell.id
    assert {f"{exercise}-figure" for exercise in figures_to_reach(chapter)} == to_reach


def test_a_picture_that_a_solution_draws_would_stay_behind(chapter):
    """Planted in turn in every cell that a student must not see."""
    figure = nbformat.v4.new_output("display_data", {"image/png": "c2VjcmV0"})
    before = figures_to_reach(chapter)
    for cell in exercises(chapter):
        hidden = "solution" in cell.id.split("-") or cell.id.endswith("-answer")
        if cell.cell_type == "code" and hidden:
            cell.outputs.append(figure)
    assert "c2VjcmV0" in json.dumps(chapter)
    assert figures_to_reach(chapter) == before
    assert "c2VjcmV0" not in json.dumps(lab_source(chapter, "01-entropy"))


def test_every_answer_begins_as_a_stub(lab):
    answers = [c for c in lab.cells if c.metadata.get("nbgrader", {}).get("solution")]
    assert len(answers) >= 3
    for cell in answers:
        stub = "raise NotImplementedError()" if cell.cell_type == "code" else "YOUR ANSWER HERE"
        assert cell.source.endswith(stub), cell.id


def test_opens_in_colab_as_itself(lab, path):
    url, branch = read_address()
    assert lab.cells[0].source == badge(url, branch, f"labs/{path.name}")
    code = [cell for cell in lab.cells if cell.cell_type == "code"]
    assert code[0].source == install_cell(url, branch)


def test_needs_no_file_from_outside(lab):
    for cell in lab.cells:
        for link in re.findall(r"\]\(([^)]+)\)", cell.source):
            assert re.match(r"https?://|#", link), f"{cell.id}: {link}"


def test_stated_points_are_the_points_given(chapter):
    marks = [c.metadata.nbgrader for c in exercises(chapter) if "nbgrader" in c.metadata]
    given = [mark.points for mark in marks if mark.grade]
    headings = re.findall(
        r"^### Exercise \d+: .*\((\d+) minutes, (\d+) points?", "\n".join(texts(chapter)), re.M
    )
    table = re.findall(r"^\| \d+ \| .* \| (\d+) \| (\d+) \|$", "\n".join(texts(chapter)), re.M)
    assert headings == table
    assert [int(points) for _, points in headings] == given


def texts(chapter):
    return [cell.source for cell in exercises(chapter) if cell.cell_type == "markdown"]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A course with all labs, a perfect and an empty submission, and what nbgrader gives them."""
    course = tmp_path_factory.mktemp("course")
    for path in LABS:
        chapter = nbformat.read(ROOT / "chapters" / path.name, as_version=4)
        perfect, empty = (nbformat.read(path, as_version=4) for _ in range(2))
        written = {cell.id: cell.source for cell in chapter.cells}
        for cell in perfect.cells:
            if cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = written[cell.id]
        save(lab_source(chapter, path.stem), course / "source" / "labs" / path.name)
        save(perfect, course / "submitted" / "perfect" / "labs" / path.name)
        save(empty, course / "submitted" / "empty" / "labs" / path.name)
    nbgrader(course, "generate_assignment", "labs")
    nbgrader(course, "autograde", "labs")
    nbgrader(course, "export", "--to=grades.csv")
    return course


def points_of(lab):
    """The points of each graded cell, and which cells are graded by hand."""
    marks = {c.metadata.nbgrader.grade_id: c for c in lab.cells if "nbgrader" in c.metadata}
    points = {k: c.metadata.nbgrader.points for k, c in marks.items() if c.metadata.nbgrader.grade}
    return points, {k for k in points if marks[k].cell_type == "markdown"}


def test_nbgrader_grades_a_perfect_and_an_empty_submission(graded, lab, path):
    """With the real tool, from the release on."""
    points, by_hand = points_of(lab)
    with Gradebook(f"sqlite:///{graded}/gradebook.db") as gradebook:
        for student in ("perfect", "empty"):
            notebook = gradebook.find_submission_notebook(path.stem, "labs", student)
            scores = {grade.name: grade.auto_score for grade in notebook.grades}
            waiting = {grade.name for grade in notebook.grades if grade.needs_manual_grade}
            if student == "perfect":
                expected = {key: None if key in by_hand else points[key] for key in points}
                assert (scores, waiting) == (expected, by_hand)
            else:
                assert (scores, waiting) == (dict.fromkeys(points, 0), set())


def test_the_exported_grades_add_up(graded):
    with open(graded / "grades.csv", newline="") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    labs = [points_of(nbformat.read(path, as_version=4)) for path in LABS]
    total = sum(sum(points.values()) for points, _ in labs)
    automatic = total - sum(points[key] for points, by_hand in labs for key in by_hand)
    assert float(rows["perfect"]["score"]) == automatic > 0
    assert float(rows["empty"]["score"]) == 0
    assert float(rows["empty"]["max_score"]) == total


def save(notebook, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
