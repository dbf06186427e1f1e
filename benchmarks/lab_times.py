"""Time the labs: how long does each take to run, with all solutions filled in?

Each lab runs from top to bottom in a fresh kernel, on one core and with nothing cached, as in an
empty Colab. What counts is the processor's time, so that it does not matter what else the machine
does. Importing torch is part of it.

    make bench            (or: python benchmarks/lab_times.py)

writes distill_lib/records/lab-times.json, from which *For instructors* takes its figures.
"""

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

import distill_lib
from distill_lib.records import save_record

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from make_labs import lab_source  # noqa: E402

RECORD = Path(distill_lib.__file__).parent / "records" / "lab-times.json"


def core_seconds(lab):
    """What the kernel takes of the processor; it is over, and so counted, when the lab is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = used.ru_utime + used.ru_stime
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DISTILL_LIB_CACHE"] = folder
        NotebookClient(lab, timeout=None, resources={"metadata": {"path": folder}}).execute()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(used.ru_utime + used.ru_stime - before, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    chapters = {path.stem: path for path in sorted((ROOT / "chapters").glob("*.ipynb"))}
    parser.add_argument("--labs", nargs="+", choices=chapters, default=list(chapters))
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {}
    for stem in tqdm(options.labs, desc="labs"):
        lab = lab_source(nbformat.read(chapters[stem], as_version=4), stem)
        found[stem] = core_seconds(lab)
        print(f"{stem}: {found[stem]} s", flush=True)
    save_record(options.record, "python benchmarks/lab_times.py", {"core_seconds": found})


if __name__ == "__main__":
    main()
