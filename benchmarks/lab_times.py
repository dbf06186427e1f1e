"""Time the labs: how long does each take to run, with all solutions filled in?

Each lab runs from top to bottom in a fresh kernel with nothing cached, as in an empty Colab;
starting the kernel and importing torch are part of it. On a CPU it runs on one core, and what
counts is the processor's time, so that it does not matter what else the machine does. On a GPU what
counts is the clock on the wall.

    make bench            (or: python benchmarks/lab_times.py)

writes distill_lib/records/lab-times.json, from which *For instructors* takes its figures; on a GPU
the file is lab-times-gpu.json. There one wants the chapters' times, too:

    python benchmarks/lab_times.py --chapters --workers 6

runs six notebooks side by side, labs and whole chapters. `--only 09-student 10-did-it-work` runs
some, and writes no record unless `--record` names a file. `--keep folder` keeps the notebooks as
they ran. A cell that fails is named, and stops neither its notebook nor the others; the exit code
says so.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from recording import record_path, save_record
from tqdm import tqdm

from distill_lib.data import default_device

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from make_labs import lab_source  # noqa: E402

RECORD = record_path("lab-times")


def core_seconds():
    """What this process's children have taken of the processor; only those that are over count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(notebook, clock):
    """Execute a notebook in place; its seconds, and the cells that failed."""
    before = clock()
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            allow_errors=True,
            timeout=None,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
        ).execute(env={**os.environ, "DISTILL_LIB_CACHE": folder})
    failed = [
        cell.id
        for cell in notebook.cells
        if any(output.output_type == "error" for output in cell.get("outputs", ()))
    ]
    return round(clock() - before, 1), failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stems = [path.stem for path in sorted((ROOT / "chapters").glob("*.ipynb"))]
    parser.add_argument("--only", nargs="+", choices=stems, default=stems, metavar="CHAPTER")
    parser.add_argument("--chapters", action="store_true", help="the whole chapters, too")
    parser.add_argument("--workers", type=int, default=1, help="notebooks that run side by side")
    parser.add_argument("--keep", type=Path, help="folder for the executed notebooks")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()

    on_cpu = default_device().type == "cpu"
    if on_cpu and options.workers > 1:
        parser.error("--workers: on a CPU notebooks are timed one by one")
    if on_cpu:
        os.environ["OMP_NUM_THREADS"] = "1"
    clock, unit = (core_seconds, "core_seconds") if on_cpu else (time.perf_counter, "seconds")

    chapters = {
        stem: nbformat.read(ROOT / "chapters" / f"{stem}.ipynb", as_version=4)
        for stem in options.only
    }
    notebooks = {(unit, stem): lab_source(chapter, stem) for stem, chapter in chapters.items()}
    if options.chapters:
        notebooks |= {(f"chapter_{unit}", stem): chapter for stem, chapter in chapters.items()}
    results = {kind: {} for kind, _ in notebooks}
    everything = options.only == stems
    record = options.record or (RECORD if everything else None)
    command = "python benchmarks/lab_times.py"
    if not everything:
        command += f" --only {' '.join(options.only)}"
    if options.chapters:
        command += " --chapters"
    if options.workers > 1:
        command += f" --workers {options.workers}"
    failures = 0
    with ThreadPoolExecutor(options.workers) as pool:
        runs = {pool.submit(run, notebook, clock): key for key, notebook in notebooks.items()}
        for future in tqdm(as_completed(runs), total=len(runs), desc="notebooks"):
            kind, stem = runs[future]
            taken, failed = future.result()
            results[kind] = dict(sorted({**results[kind], stem: taken}.items()))
            failures += len(failed)
            print(f"{kind} {stem}: {taken}", *failed, flush=True)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                nbformat.write(notebooks[kind, stem], options.keep / f"{kind}-{stem}.ipynb")
            if record:
                save_record(record, command, results)  # each time: a run may be cut off
    return failures


if __name__ == "__main__":
    sys.exit(min(main(), 1))
