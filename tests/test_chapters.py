"""The rules that make one notebook serve the book, GitHub and Colab."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbgrader.nbgraderformat import MetadataValidator
from run_chapters import PICTURE, readme_picture
from set_address import ROOT, badge, install_cell, read_address, slug

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "chapters").glob("*.md"))]
TAGS = {
    *("remove-cell", "remove-input", "remove-output", "hide-cell", "hide-input", "hide-output"),
    "nbval-ignore-output",  # and not nbval-skip, with which a cell would not be tested at all
}
MACHINE_PATH = re.compile(
    r"(?<![\w.:/~-])/(?:home|root|tmp|work|content|opt|Users|mnt)/|[A-Z]:\\\\"
)
MYST = re.compile(  # directives, roles, targets, comments, substitutions, footnotes
    r"^\s*[`:]{3,}\{|(?<!`)\{[\w:-]+\}`[^`]|^\([\w:-]+\)=\s*$|^%|^\+\+\+|\{\{.*\}\}|^\[\^.*\]:",
    re.M,
)
FENCE = re.compile(r"^```(?!\{).*?^```", re.M | re.S)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)
IMAGE = re.compile(r"!\[|<img\b", re.I)
LINK = re.compile(r"\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)*)\)|<a href=\"([^\"]+)\"")
PAPER = re.compile(r"https?://(?:dx\.)?(?:doi\.org/|arxiv\.org/(?:abs|pdf)/)[^\s)>\"]+", re.I)


def load(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def prose(path: Path) -> str:
    return markdown(load(path)) if path.suffix == ".ipynb" else path.read_text("utf-8")


def paper(url: str) -> str:
    """Name a paper the same way whatever form its link has."""
    name = re.sub(r"^https?://(dx\.)?", "", url.lower()).rstrip("/.,;")
    arxiv = re.match(r"arxiv\.org/(?:abs|pdf)/([\w.\-/]+?)(?:v\d+)?(?:\.pdf)?$", name)
    return f"arxiv:{arxiv[1]}" if arxiv else name.replace("doi.org/10.48550/arxiv.", "arxiv:")


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def chapter(path) -> NotebookNode:
    return load(path)


def test_every_chapter_is_in_the_table_of_contents():
    listed = set(re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text("utf-8")))
    pages = {*CHAPTERS, *(ROOT / "chapters").glob("*.md")}
    assert listed == {page.relative_to(ROOT).with_suffix("").as_posix() for page in pages}


def test_the_readme_has_every_page_and_every_badge():
    readme = (ROOT / "README.md").read_text("utf-8")
    for path in (*CHAPTERS, *(ROOT / "chapters").glob("*.md")):
        assert f"](chapters/{path.name})" in readme
    for path in CHAPTERS:
        assert badge(*read_address(), f"chapters/{path.name}") in readme


def test_the_readmes_picture_is_the_chapters():
    picture, alt = readme_picture()
    assert PICTURE.read_bytes() == picture, "make run CHAPTER=08-distiller writes it"
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f'src="{PICTURE.relative_to(ROOT).as_posix()}" alt="{alt}"' in readme


def test_file(path, chapter):
    assert re.fullmatch(r"\d\d-[a-z0-9-]+", path.stem)
    nbformat.validate(chapter)
    assert (chapter.nbformat, chapter.nbformat_minor) == (4, 5)
    assert path.stat().st_size < 1_000_000
    assert chapter.metadata.kernelspec.name == "python3"
    assert set(chapter.metadata) == {"kernelspec", "language_info"}, (
        "widget state, or other leavings"
    )


def test_cells(chapter):
    names = [cell.id for cell in chapter.cells]
    assert len(set(names)) == len(names)
    for cell in chapter.cells:
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell.id), cell.id
        assert not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]+)*", cell.id), f"{cell.id} says nothing"
        assert set(cell.metadata) <= {"tags", "mystnb", "nbgrader"}, cell.id
        assert set(cell.metadata.get("tags", [])) <= TAGS, cell.id
        assert cell.source.strip(), f"{cell.id} is empty"


def test_was_run_from_top_to_bottom_without_an_error(chapter):
    cells = code_cells(chapter)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id
            assert not any("widget" in kind for kind in output.get("data", {})), cell.id


def test_nothing_of_the_machine_is_left(chapter):
    for cell in chapter.cells:
        shown = [
            text
            for output in cell.get("outputs", [])
            for text in (output.get("text", ""), *output.get("data", {}).values())
        ]
        for text in (cell.source, *(text for text in shown if isinstance(text, str))):
            assert not MACHINE_PATH.search(text), cell.id
            assert not re.search(r"\bat 0x[0-9a-f]{6,}", text), f"{cell.id} shows a memory address"


def test_magic_is_pip_alone(chapter):
    for cell in code_cells(chapter):
        magics = re.findall(r"^\s*([%!]\S*)", cell.source, re.M)
        assert set(magics) <= {"%pip"}, f"{cell.id}: {magics}"


def test_badge_and_install_cell_have_the_address(path, chapter):
    url, branch = read_address()
    first = chapter.cells[0]
    assert first.source == badge(url, branch, f"chapters/{path.name}")
    # The book has its own launch button, and a page of it asks no other host for a picture.
    assert (first.cell_type, first.metadata.tags) == ("markdown", ["remove-cell"])
    install = code_cells(chapter)[0]
    assert (install.id, install.source) == ("install", install_cell(url, branch))
    assert not install.outputs


def test_opens_with_what_for_what_first_and_how_long(chapter):
    opening = chapter.cells[1]
    assert opening.cell_type == "markdown" and opening.source.startswith("# ")
    assert re.search(r"able to", opening.source, re.I)
    assert re.search(r"\d minutes?\b", opening.source)
    assert {"CPU", "GPU"} <= set(re.findall(r"\w+", opening.source))


def test_closes_with_exercises_their_solutions_and_a_summary(chapter):
    headings = re.findall(r"^## (.+)$", markdown(chapter), re.M)
    assert {"Exercises", "Summary"} <= set(headings)
    assert len(re.findall(r"^# ", CODE.sub("", markdown(chapter)), re.M)) == 1
    folded = [cell for cell in chapter.cells if "hide-cell" in cell.metadata.get("tags", [])]
    assert folded or "<details>" in markdown(chapter), "exercises without solutions"


def test_markup_shows_alike_in_the_book_on_github_and_in_colab(chapter):
    for cell in chapter.cells[1:]:
        if cell.cell_type == "markdown":
            assert not IMAGE.search(CODE.sub("", cell.source)), f"{cell.id}: draw it in a cell"
            assert not MYST.search(FENCE.sub("", cell.source)), f"{cell.id}: shows raw in Colab"
            assert cell.source.count("<details") == cell.source.count("</details>"), cell.id
            assert "\\(" not in cell.source and "\\[" not in cell.source, f"{cell.id}: use $"


def test_every_figure_has_a_text_in_its_place(chapter):
    for cell in code_cells(chapter):
        for output in cell.outputs:
            data = output.get("data", {})
            assert not {"image/jpeg", "image/svg+xml", "image/gif"} & set(data), (
                f"{cell.id}: show()"
            )
            if "image/png" in data:
                alt = output.metadata["image/png"]["alt"]
                assert len(alt.split()) >= 5, f"{cell.id}: {alt!r} does not stand in for a figure"
                # The rendered page takes it from here: one figure a cell.
                assert cell.metadata.mystnb.image.alt == alt, f"{cell.id}: make run puts it there"


def test_marks_for_grading_are_valid(chapter):
    MetadataValidator().validate_nb(chapter)
    marks = [cell.metadata.nbgrader for cell in chapter.cells if "nbgrader" in cell.metadata]
    names = [mark.grade_id for mark in marks]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("page", [*PAGES, *CHAPTERS], ids=lambda page: page.name)
def test_links_into_the_repository_resolve(page):
    url, branch = read_address()
    here = f"(?:{re.escape(url)}|https://colab.research.google.com/github/{re.escape(slug(url))})"
    for link in (a or b for a, b in LINK.findall(CODE.sub("", prose(page)))):
        if match := re.fullmatch(rf"{here}/(?:blob|tree|raw)/{re.escape(branch)}/([^#?]+).*", link):
            assert (ROOT / match[1]).exists(), link
        elif not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", [*PAGES, *CHAPTERS], ids=lambda page: page.name)
def test_cited_papers_are_in_the_bibliography(page):
    bibliography = (ROOT / "chapters" / "bibliography.md").read_text("utf-8")
    listed = {paper(url) for url in PAPER.findall(bibliography)}
    assert {paper(url) for url in PAPER.findall(prose(page))} <= listed
