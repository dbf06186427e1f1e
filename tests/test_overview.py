"""The overview of all exercises and the instructor's numbers are those of the chapters."""

import ast
import re
from datetime import datetime, timedelta

import grade
import make_overview
import nbformat
import pytest
from make_overview import ALL, GUIDE, OVERVIEW, SYLLABI, fill, overview, read_chapter, read_chapters
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sandbox import LEVELS
from set_address import ROOT

from distill_lib.records import load_record

CHAPTERS = read_chapters()
PAGE = (ROOT / OVERVIEW).read_text("utf-8")
TEXT = (ROOT / GUIDE).read_text("utf-8")
ON_GPU = load_record("lab-times-gpu")["results"]


def test_the_pages_are_fresh():
    """`make labs` would write what is there already."""
    assert overview(CHAPTERS) == PAGE, "stale: run `make labs`"
    assert fill(TEXT, CHAPTERS) == TEXT, "stale: run `make labs`"


def test_main_writes_both_pages(tmp_path):
    (tmp_path / "chapters").mkdir()
    for name in ("_config.yml", *(f"chapters/{stem}.ipynb" for stem in CHAPTERS)):
        (tmp_path / name).symlink_to(ROOT / name)
    old = re.sub(r"\d+ minutes to read", "0 minutes to read", TEXT)
    (tmp_path / GUIDE).write_text(old, "utf-8")
    make_overview.main(tmp_path)
    assert old != TEXT == (tmp_path / GUIDE).read_text("utf-8")
    assert (tmp_path / OVERVIEW).read_text("utf-8") == PAGE


def rows(heading):
    """The cells of the table below a heading of the printed page."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    lines = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


@pytest.mark.parametrize("stem", CHAPTERS)
def test_a_chapters_table_has_what_its_cells_say(stem):
    """Counted here once more, from the notebook and the printed page alone."""
    chapter = nbformat.read(ROOT / "chapters" / f"{stem}.ipynb", as_version=4)
    marks = [cell.metadata.nbgrader for cell in chapter.cells if "nbgrader" in cell.metadata]
    points = [mark.points for mark in marks if mark.grade]
    source = "\n".join(cell.source for cell in chapter.cells)
    headings = re.findall(r"^### Exercise \d+: (.+) \((\d+) minutes, (\d+) points?", source, re.M)
    *body, total = rows(f"{stem[:2]} {CHAPTERS[stem].title}")
    assert [(row[1], row[2], row[3]) for row in body] == headings
    assert [int(row[3]) for row in body] == points
    assert total[2:4] == [str(sum(int(row[2]) for row in body)), str(sum(points))]
    checked = re.findall(r"^check\.(\w+)\(", source, re.M)
    assert [row[4].strip("`") for row in body if row[4][0] == "`"] == checked
    assert len(checked) >= 3
    assert [row[4] for row in body].index("hand") == len(body) - 1, "the last one is for words"


def test_the_totals_add_up():
    *labs, total = rows("The labs")
    assert len(labs) == len(CHAPTERS)
    for column in range(1, 6):
        assert int(total[column]) == sum(int(row[column]) for row in labs)
    for row in (*labs, total):
        assert int(row[3]) + int(row[4]) == int(row[5])


@pytest.mark.parametrize("name", SYLLABI)
def test_a_syllabus_reads_chapters_in_an_order_that_can_be_read(name):
    stems = [stem for _, stem, _ in SYLLABI[name]]
    assert stems == sorted(set(stems))
    assert f"<!-- generated: syllabus {name} -->" in TEXT


def test_the_term_has_every_chapter_and_the_workshop_fits_a_day():
    assert {stem for _, stem, _ in SYLLABI["term"]} >= set(CHAPTERS)
    assert all(chosen is ALL for _, _, chosen in SYLLABI["term"])
    end = datetime.strptime("09:00", "%H:%M")
    for when, stem, chosen in SYLLABI["workshop"]:
        start = datetime.strptime(when, "%H:%M")
        assert start >= end, f"{stem} begins before the chapter before it ends"
        chapter = CHAPTERS[stem]
        end = start + timedelta(minutes=chapter.reading + chapter.minutes(chosen))
    assert end <= datetime.strptime("16:30", "%H:%M")


def messages(module):
    """Everything that a module of checkers can say, and the first line of each checker."""
    tree = ast.parse((ROOT / "distill_lib" / "checks" / f"{module}.py").read_text("utf-8"))
    nodes = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return (
        [value for value in nodes if isinstance(value, str)],
        {function.name: ast.get_docstring(function) for function in functions},
    )


@pytest.mark.parametrize("stem", CHAPTERS)
def test_the_guide_quotes_three_messages_that_the_checks_of_a_lab_can_give(stem):
    (section,) = re.findall(
        rf"<!-- generated: lab {stem} -->.*?<!-- end -->(.*?)(?=<!-- generated|\Z)", TEXT, re.S
    )
    quoted = re.findall(r"^- “(.+?)” \(exercise (\d+)\)\. \S", section, re.M)
    assert len(quoted) == 3
    chapter = (ROOT / "chapters" / f"{stem}.ipynb").read_text("utf-8")
    module = re.search(r"from distill_lib\.checks import (\w+) as check", chapter)[1]
    said, checkers = messages(module)
    for message, number in quoted:
        assert any(message in text for text in said), message
        (exercise,) = (e for e in CHAPTERS[stem].exercises if e.number == int(number))
        (name,) = exercise.checkers
        assert checkers[name].startswith(f"Exercise {number}: ")


def test_the_guide_names_the_files_that_grading_writes():
    written = set(re.findall(r"^([\w.]+)   *\S", grade.__doc__, re.M)) | {"rubric.md"}
    assert written == set(re.findall(r"^\| `([\w.]+)` \|", TEXT, re.M))
    for level, name in zip(LEVELS, ("namespaces", "a user of its own", "nothing"), strict=True):
        assert f"\n| {name} | " in TEXT, level
    source = (ROOT / "Makefile").read_text("utf-8")
    assert "\ngrade:" in source and "$(SUBMISSIONS)" in source and "$(LAB)" in source


def small(heading, opening="# Title\n\n**You will be able to**\n\n- read;\n\n", time="5 minutes"):
    """A chapter with one exercise."""
    opening += f"**Read first:** nothing.\n\n**Time:** {time} to read."
    grade = {"grade": True, "solution": False, "points": 2}
    cells = [
        new_markdown_cell("badge"),
        new_markdown_cell(opening),
        new_markdown_cell("## Exercises"),
        new_markdown_cell(heading),
        new_code_cell("check.one(one)\ncheck.two(two)", metadata={"nbgrader": grade}),
        new_markdown_cell("### Exercise 2: by yourself (10 minutes)"),
        new_markdown_cell("## Summary"),
    ]
    return new_notebook(cells=cells)


def test_what_an_exercise_is():
    chapter = read_chapter(small("### Exercise 1: one (and two) (5 minutes, 2 points)"), "01-a")
    first, second = chapter.exercises
    assert (first.title, first.points, first.graded_by) == ("one (and two)", 2, "`one`, `two`")
    assert (second.minutes, second.points, second.graded_by) == (10, 0, "nobody")
    assert (chapter.reading, chapter.minutes(), chapter.minutes([2])) == (5, 15, 10)
    with pytest.raises(ValueError, match=r"01-a does not have all of the exercises \[3\]"):
        chapter.minutes([3])


def test_what_cannot_be_read_is_named():
    with pytest.raises(ValueError, match=r"not '### Exercise 1: .* quick one"):
        read_chapter(small("### Exercise 1: a quick one"), "01-a")
    heading = "### Exercise 1: one (5 minutes, 2 points)"
    with pytest.raises(ValueError, match=r"opening of 01-a lacks.* reading"):
        read_chapter(small(heading, time="A while"), "01-a")
    with pytest.raises(ValueError, match="no such text to generate: weather today"):
        fill("<!-- generated: weather today -->\n<!-- end -->", CHAPTERS)


def test_every_lab_was_timed():
    assert "was not measured yet" not in TEXT, "run benchmarks/lab_times.py"
    assert TEXT.count("With all solutions filled in, the lab runs for") == len(CHAPTERS)
    assert TEXT.count("seconds with a GPU.") == len(ON_GPU["seconds"]) > 0


def test_what_chapters_say_of_a_gpu_is_what_was_measured():
    for stem, seconds in ON_GPU["chapter_seconds"].items():
        time = CHAPTERS[stem].time
        if "a GPU changes nothing" not in time:
            assert abs(int(re.search(r"GPU: about (\d+) seconds", time)[1]) - seconds) <= 5, stem
