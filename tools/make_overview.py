"""Write the overview of all exercises, and the instructor's numbers: `make labs`.

Minutes, points and checkers are read from the chapters, the one place that has them:
`chapters/exercises.md` is written as a whole, to be printed; in `chapters/for-instructors.md` the
text between `<!-- generated: ... -->` and `<!-- end -->` is. Running this twice gives the same
files.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from make_labs import exercises
from nbformat import NotebookNode
from set_address import COLAB, ROOT, read_address, slug

from distill_lib.records import load_record

OVERVIEW = Path("chapters", "exercises.md")
GUIDE = Path("chapters", "for-instructors.md")
HEADING = re.compile(r"^### Exercise (\d+): (.+) \((\d+) minutes?(?:, (\d+) points?)?(?:, .+)?\)$")
BLOCK = re.compile(r"(<!-- generated: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.S)
ALL = None  # all exercises of a chapter

# Which exercises fit into which course. What they add up to is computed below.
SYLLABI: dict[str, list[tuple[str, str, list[int] | None]]] = {
    "workshop": [
        ("09:00", "01-entropy", [1, 4]),
        ("10:00", "02-kl-divergence", [1, 2]),
        ("11:15", "08-distiller", [1, 2]),
        ("13:30", "09-student", [1, 3]),
        ("14:45", "11-common-mistakes", [1, 2, 3]),
    ],
    "module": [
        ("1", "01-entropy", ALL),
        ("1", "02-kl-divergence", ALL),
        ("2", "06-data", [2, 3, 6]),
        ("2", "07-teacher", ALL),
        ("3", "08-distiller", ALL),
        ("3", "09-student", [1, 2, 3, 5]),
        ("4", "10-did-it-work", ALL),
        ("4", "11-common-mistakes", [2, 3, 4, 6]),
    ],
    "term": [
        ("1", "01-entropy", ALL),
        ("2", "02-kl-divergence", ALL),
        ("3", "03-mutual-information", ALL),
        ("4", "04-estimating-mutual-information", ALL),
        ("5", "05-what-distillation-maximises", ALL),
        ("6", "06-data", ALL),
        ("6", "07-teacher", ALL),
        ("7", "08-distiller", ALL),
        ("8", "09-student", ALL),
        ("9", "10-did-it-work", ALL),
        ("9", "11-common-mistakes", ALL),
        ("10", "12-three-objectives", ALL),
        ("11", "13-feature-distillers", ALL),
        ("12", "14-structural-distillers", ALL),
        ("12", "15-students-teaching-students", ALL),
        ("13", "16-why-it-works", ALL),
        ("14", "17-comparison", ALL),
        ("15", "18-hinton-2015", ALL),
    ],
}


@dataclass
class Exercise:
    """What a chapter says of one of its exercises."""

    number: int
    title: str
    minutes: int
    points: int
    by_hand: bool
    checkers: list[str]

    @property
    def graded_by(self) -> str:
        """The checker that gives the points, or who else does."""
        if not self.points:
            return "nobody"
        return "hand" if self.by_hand else ", ".join(f"`{name}`" for name in self.checkers)


@dataclass
class Chapter:
    """What the overview and the guide need of a chapter."""

    stem: str
    title: str
    objectives: str
    first: str
    time: str
    reading: int
    exercises: list[Exercise]

    def minutes(self, numbers: list[int] | None = ALL) -> int:
        """What the exercises take, all of them or those with these numbers."""
        return sum(e.minutes for e in self.chosen(numbers))

    def points(self, *, by_hand: bool | None = None, numbers: list[int] | None = ALL) -> int:
        """What the exercises give: all points, or those by hand alone, or those by code alone."""
        chosen = self.chosen(numbers)
        return sum(e.points for e in chosen if by_hand is None or e.by_hand is by_hand)

    def chosen(self, numbers: list[int] | None) -> list[Exercise]:
        """Return the exercises with these numbers."""
        chosen = [e for e in self.exercises if numbers is ALL or e.number in numbers]
        if numbers is not ALL and len(chosen) != len(numbers):
            raise ValueError(f"{self.stem} does not have all of the exercises {numbers}")
        return chosen

    @property
    def link(self) -> str:
        """The page in the book."""
        return f"[{self.title}]({self.stem}.ipynb)"


def main(root: Path = ROOT) -> None:
    """Write both pages of a copy of the repository."""
    chapters = read_chapters(root)
    (root / OVERVIEW).write_text(overview(chapters, root), "utf-8")
    guide = root / GUIDE
    guide.write_text(fill(guide.read_text("utf-8"), chapters, root), "utf-8")


def read_chapters(root: Path = ROOT) -> dict[str, Chapter]:
    """Read all chapters with exercises to grade, by their stems."""
    chapters = {}
    for path in sorted((root / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if any("nbgrader" in cell.metadata for cell in notebook.cells):
            chapters[path.stem] = read_chapter(notebook, path.stem)
    return chapters


def read_chapter(notebook: NotebookNode, stem: str) -> Chapter:
    """Read title, opening and exercises."""
    opening = notebook.cells[1].source
    found = {
        "title": re.match(r"# (.+)", opening),
        "objectives": re.search(r"\*\*You will be able to\*\*\n\n(.+?)\n\n", opening, re.S),
        "first": re.search(r"\*\*Read first:\*\* (.+)", opening),
        "time": re.search(r"\*\*Time:\*\* (.+)", opening),
        "reading": re.search(r"\*\*Time:\*\* (\d+) minutes to read", opening),
    }
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise ValueError(f"the opening of {stem} lacks, or words otherwise: {', '.join(missing)}")
    said = {name: match[1] for name, match in found.items()}
    said["reading"] = int(said["reading"])
    return Chapter(stem, exercises=read_exercises(notebook), **said)


def read_exercises(notebook: NotebookNode) -> list[Exercise]:
    """Read the headings of the exercises, and the marks of the cells below each."""
    found: list[Exercise] = []
    for cell in exercises(notebook):
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("### Exercise"):
                    if (match := HEADING.match(line)) is None:
                        raise ValueError(f"not '### Exercise 1: … (5 minutes, 1 point)': {line}")
                    number, title, minutes, _ = match.groups()
                    found.append(Exercise(int(number), title, int(minutes), 0, False, []))
        mark = cell.metadata.get("nbgrader", {})
        if mark.get("grade"):
            found[-1].points += mark.points
            found[-1].by_hand |= cell.cell_type == "markdown"
            if cell.cell_type == "code":
                found[-1].checkers += re.findall(r"check\.(\w+)\(", cell.source)
    return found


def overview(chapters: dict[str, Chapter], root: Path = ROOT) -> str:
    """Return the page to print: a table of the labs, and a table of exercises for each."""
    everything = list(chapters.values())
    lines = [
        "# All exercises",
        "<!-- Written by tools/make_overview.py from the chapters: `make labs`. Don't edit. -->",
        "For print: all exercises with their minutes and points. The points are given by a "
        "checker, which is named, or by hand, with the rubric of the chapter. The chapters have "
        "the exercises with hints and solutions, the labs have them without solutions. How to "
        "teach with them is in [For instructors](for-instructors.md).",
        "## The labs",
        "Minutes to *read* the chapter and to *do* its exercises; points given by *code*, by "
        "*hand*, and *both* together.",
        table(
            ["chapter", "read", "do", "code", "hand", "both"],
            [
                [
                    f"{c.stem[:2]} {c.link}",
                    c.reading,
                    c.minutes(),
                    c.points(by_hand=False),
                    c.points(by_hand=True),
                    c.points(),
                ]
                for c in everything
            ]
            + [
                [
                    "**all**",
                    sum(c.reading for c in everything),
                    sum(c.minutes() for c in everything),
                    sum(c.points(by_hand=False) for c in everything),
                    sum(c.points(by_hand=True) for c in everything),
                    sum(c.points() for c in everything),
                ]
            ],
        ),
    ]
    for c in everything:
        lines += [
            f"## {c.stem[:2]} {c.title}",
            f"{c.time} [Open the lab in Colab]({lab(c.stem, root)}).",
            table(
                ["no.", "exercise", "min", "points", "graded by"],
                [[e.number, e.title, e.minutes, e.points, e.graded_by] for e in c.exercises]
                + [["", "**all**", c.minutes(), c.points(), ""]],
            ),
        ]
    return "\n\n".join(lines) + "\n"


def fill(guide: str, chapters: dict[str, Chapter], root: Path = ROOT) -> str:
    """Return the guide with the text between its marks written anew."""

    def block(match: re.Match[str]) -> str:
        start, kind, name, end = match.groups()
        if kind == "syllabus":
            text = syllabus(SYLLABI[name], chapters)
        elif kind == "lab":
            text = facts(chapters[name], root) if name in chapters else f"### {name}"
        else:
            raise ValueError(f"{GUIDE}: no such text to generate: {kind} {name}")
        return f"{start}\n{text}\n\n{end}"

    return BLOCK.sub(block, guide)


def facts(c: Chapter, root: Path = ROOT) -> str:
    """Return what the chapter says of itself as a lab."""
    return (
        f"### {c.title}\n\n"
        f"[The chapter]({c.stem}.ipynb), [the lab in Colab]({lab(c.stem, root)}). Who has worked "
        f"through it will be able to\n\n{c.objectives}\n\n"
        f"**Read first:** {c.first}\n\n"
        f"**Time:** {c.time} The exercises add up to {c.minutes()} minutes. {running(c.stem)}\n\n"
        f"**Points:** {c.points()}, of which {c.points(by_hand=False)} are given by code and "
        f"{c.points(by_hand=True)} by hand."
    )


def running(stem: str) -> str:
    """Return how long the lab runs, as `benchmarks/lab_times.py` measured it."""
    on_cpu = load_record("lab-times")["results"]["core_seconds"].get(stem)
    on_gpu = load_record("lab-times-gpu")["results"]["seconds"].get(stem)
    if on_cpu is None:
        return "How long the lab runs was not measured yet."
    lab = f"With all solutions filled in, the lab runs for {on_cpu:.0f} seconds on one CPU core"
    return f"{lab}, {on_gpu:.0f} seconds with a GPU." if on_gpu else f"{lab}."


def syllabus(rows: list[tuple[str, str, list[int] | None]], chapters: dict[str, Chapter]) -> str:
    """Return a table of what is read and done when, with minutes and points."""
    there = [(when, chapters[stem], chosen) for when, stem, chosen in rows if stem in chapters]
    body: list[list[object]] = []
    for when, c, chosen in there:
        some = "" if chosen is ALL else f": {', '.join(map(str, chosen))}"
        points = c.points(numbers=chosen)
        body.append([when, c.link + some, c.reading, c.minutes(chosen), points])
    total = [sum(row[column] for row in body) for column in (2, 3, 4)]
    body.append(["", "**all**", *total])
    return table(["when", "chapter, exercises", "read", "do", "points"], body)


def lab(stem: str, root: Path = ROOT) -> str:
    """Return the address at which Colab opens a lab."""
    url, branch = read_address(root)
    return f"{COLAB}/github/{slug(url)}/blob/{branch}/labs/{stem}.ipynb"


def table(head: list[str], rows: list[list[object]]) -> str:
    """Return a table in Markdown; columns of numbers stand flush right."""
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    lines = [head, ["--:" if flush else "---" for flush in right], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
