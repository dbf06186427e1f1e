"""Run a notebook of a student, whose code is not trusted, apart from everything else.

`run` starts this file as a program of its own, in the best of three ways that the machine allows:

namespaces   (Linux, as root or where users may make namespaces) The notebook sees no files but the
             system's programs, the Python environment, `distill_lib` and its own folder. It has no
             network, sees no other process, and all that it started ends with it.
user         (Linux, as root) It runs as a user who owns nothing but the notebook's folder. What all
             users may read or write, it can read or write.
none         It runs as whoever calls. It can do whatever they can.

All three limit its time, its memory, its files and its environment variables, and end what it has
started.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("namespaces", "user", "none")
USERS = range(60706, 61184)  # ids that systemd and Debian give to nobody
LARGEST_FILE = 64_000_000  # bytes
MOST_PRINTED = 100_000  # characters that a cell prints, and that are kept
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc",
    "/sys/devices/system",
)
PR_SET_PDEATHSIG = 1
WORDS = {
    "DeadKernelError": "its kernel died, of its own doing or for want of memory",
    "CellTimeoutError": "a cell took too long and could not be interrupted",
}


@dataclass
class Limits:
    """What one submission may use."""

    cell: int = 120  # seconds
    total: int = 600  # seconds
    memory: int = 4000  # MB, of each process; all together may have twice that
    threads: int = 1


@dataclass
class Run:
    """What came of a run: for each cell whether it was reached, and its outputs."""

    cells: list[dict[str, Any]]
    failure: str | None  # why the run stopped before its end


def run(notebook: str, level: str, limits: Limits) -> Run:
    """Run a notebook, given as text, in a folder of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as outer,
        socket.socket(socket.AF_UNIX) as sign,
    ):
        os.chmod(outer, 0o711)
        folder = Path(outer, "work")
        folder.mkdir(mode=0o700)
        (folder / "lab.ipynb").write_text(notebook, "utf-8")
        user = _free_user(sign) if os.geteuid() == 0 and level != "none" else None
        if user is not None:
            for path in (folder, folder / "lab.ipynb"):
                os.chown(path, user, user)
        failure = _run_in(folder, level, limits, user)
        cells = _read_result(folder / "result.json")
    return Run(cells, failure)


def _free_user(sign: socket.socket) -> int:
    """Return the id of a user as whom nothing else runs, and hang out a sign that it is taken."""
    for user in USERS:
        with contextlib.suppress(OSError):
            sign.bind(f"\0grade-{user}")  # Linux: a name without a file, free again after the run
            return user
    raise OSError("all users for submissions are taken")


def _run_in(folder: Path, level: str, limits: Limits, user: int | None) -> str | None:
    orders = {"folder": str(folder), "user": user, "level": level, "limits": vars(limits)}
    command = [sys.executable, "-B", __file__, json.dumps(orders)]
    settings: dict[str, Any] = {}
    if level == "user":
        settings = {"user": user, "group": user, "extra_groups": []}
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder, limits),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(log := tempfile.TemporaryFile()),
            start_new_session=True,
            **settings,
        )
    except OSError as error:
        return f"it could not be started: {error}"
    with log:
        try:
            if stopped := _watch(process, limits, folder, user):
                return stopped
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            _end_what_is_left(folder, user)
        log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
        last = log.read().decode(errors="replace").strip().split("\n")[-1]
    line = " ".join(last.split())[:200].replace("`", "'")  # it may be the student's
    return (WORDS.get(last) or f"it ended with an error: `{line or status}`") if status else None


def _watch(
    process: subprocess.Popen[bytes], limits: Limits, folder: Path, user: int | None
) -> str | None:
    """Wait for the end of a run, and return the limit that it exceeds, if it does."""
    end = time.monotonic() + limits.total
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(left, 1))
            return None
        used = 0
        for each in _processes(folder, user):
            with contextlib.suppress(psutil.Error):
                used += each.memory_info().rss
        if used > 2e6 * limits.memory:
            return f"its processes took more than {2 * limits.memory} MB together"
    return f"it took longer than {limits.total} s in all"


def _processes(folder: Path, user: int | None) -> list[psutil.Process]:
    """Return the processes of a run: its user's, or those whose home is its folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if user is not None:
                is_of_run = process.uids().real == user
            else:
                is_of_run = process.environ().get("HOME") == str(folder)
            if is_of_run:
                found.append(process)
    return found


def _end_what_is_left(folder: Path, user: int | None) -> None:
    """End what was started and left running, in a session of its own say."""
    if user is not None:  # all at once, so that none can start another
        everything = ["/bin/sh", "-c", "kill -KILL -1"]
        subprocess.run(everything, user=user, group=user, extra_groups=[], capture_output=True)
        return
    while left := _processes(folder, user):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _environment(folder: Path, limits: Limits) -> dict[str, str]:
    """Return the variables a submission gets: none of the caller's, which may hold secrets."""
    programs = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(limits.threads))
    return {"PATH": programs, "HOME": str(folder), "LANG": "C.UTF-8", "LOGNAME": "s", **threads}


def _read_result(path: Path) -> list[dict[str, Any]]:
    """Read what the run wrote, where a submission could have put anything, links included."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            state = os.fstat(file.fileno())
            is_plain = state.st_nlink == 1 and os.path.isfile(file.fileno())
            cells = json.loads(file.read(LARGEST_FILE)) if is_plain else []
    except (OSError, ValueError, RecursionError):
        return []
    return [c if isinstance(c, dict) else {} for c in cells] if isinstance(cells, list) else []


def find_level() -> str:
    """Return the best level of isolation in which a notebook runs on this machine."""
    return next(level for level in LEVELS if level == "none" or works(level))


def works(level: str) -> bool:
    """Whether a notebook runs at this level."""
    if level == "user" and (os.geteuid() != 0 or sys.platform != "linux"):
        return False
    if level == "namespaces" and not shutil.which("unshare"):
        return False
    cell = {"cell_type": "code", "source": "print(6 * 7)", "metadata": {}, "id": "trial"}
    trial = json.dumps(
        {"cells": [{**cell, "outputs": []}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    )
    result = run(trial, level, Limits(total=120))
    return result.failure is None and "42" in json.dumps(result.cells)


# What follows runs in the process of its own.


def inside(orders: dict[str, Any]) -> None:
    """Close the doors, one after the other, and run the notebook."""
    folder, user, limits = Path(orders["folder"]), orders["user"], Limits(**orders["limits"])
    if sys.platform == "linux":  # end with the parent; setpriv takes this back, hence each time
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if orders["level"] == "namespaces":
        spaces = ["--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]
        if os.geteuid() != 0:
            spaces += ["--user", "--map-root-user"]
        _go_on_as("unshared", orders, ["unshare", *spaces])
    if orders["level"] == "unshared":
        _switch_network_on()
        _enter_new_root(folder)
        drop = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        if user is not None:
            drop += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        _go_on_as("inside", orders, drop)
    _set_limits(limits, alone=user is not None)
    execute(folder, limits)


def _go_on_as(level: str, orders: dict[str, Any], through: list[str]) -> None:
    again = [sys.executable, "-B", __file__, json.dumps({**orders, "level": level})]
    os.execvp(through[0], [*through, *again])


def _switch_network_on() -> None:
    """Bring up the loopback device, over which the kernel is spoken to: there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def _enter_new_root(folder: Path) -> None:
    """Make a file system of the few folders that a lab needs, and know no other from now on."""
    import distill_lib

    package = str(Path(distill_lib.__file__).parent)
    root = Path(tempfile.mkdtemp())  # seen in this namespace only, once it is mounted
    _mount("-t", "tmpfs", "-o", "size=1m,mode=755", "grade", str(root))
    for name in ("tmp", "dev/shm"):  # before all else, for the book may lie in it
        (root / name).mkdir(parents=True)
        _mount("-t", "tmpfs", "-o", "size=500m,mode=1777,nosuid,nodev", "grade", str(root / name))
    for name in SYSTEM:
        if os.path.islink(name):
            os.symlink(os.readlink(name), root / name[1:])
        elif os.path.isdir(name):
            _bind_read_only(name, root)
    needed = sorted({sys.prefix, sys.base_prefix, package, f"{ROOT}/tools"} - {"/usr"})
    in_book = [name for name in needed if Path(name).is_relative_to(ROOT)]
    for name in needed:
        if name not in in_book:
            _bind_read_only(name, root)
    if os.path.isdir(hidden := f"{root}{ROOT}"):  # the book lies in one of those
        _mount("-t", "tmpfs", "-o", "size=1m,mode=755", "grade", hidden)
    for name in in_book:
        _bind_read_only(name, root)
    for name in ("null", "zero", "random", "urandom", "full"):
        (root / "dev" / name).touch()
        _mount("--bind", f"/dev/{name}", str(root / "dev" / name))
    (root / "dev/pts").mkdir()  # for `!command`
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "grade", str(root / "dev/pts"))
    os.symlink("pts/ptmx", root / "dev/ptmx")
    (root / "proc").mkdir()
    _mount("-t", "proc", "proc", str(root / "proc"))
    _bind(str(folder), root)
    os.chroot(root)
    os.chdir(folder)


def _bind_read_only(name: str, root: Path) -> None:
    """Show a folder, and what is mounted below it, where it can't be written to."""
    top = _bind(name, root).resolve()
    fields = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounted = [re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), f[4]) for f in fields]
    assert str(top) in mounted
    for place in mounted:
        if Path(place).is_relative_to(top):
            _mount("-o", "remount,bind,ro", place)


def _bind(name: str, root: Path) -> Path:
    there = root / name[1:]
    there.mkdir(parents=True, exist_ok=True)
    _mount("--rbind", name, str(there))
    return there


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _set_limits(limits: Limits, *, alone: bool) -> None:
    sizes = {
        resource.RLIMIT_DATA: limits.memory * 1_000_000,
        resource.RLIMIT_FSIZE: LARGEST_FILE,
        resource.RLIMIT_CORE: 0,
    }
    if alone:  # or it would count the caller's other processes
        sizes[resource.RLIMIT_NPROC] = 400
    for name, size in sizes.items():
        _, hard = resource.getrlimit(name)
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(name, (size, size))


def execute(folder: Path, limits: Limits) -> None:
    """Run the notebook as nbgrader does, and write the outputs down after every cell."""
    import nbformat
    from nbclient import NotebookClient
    from nbformat.v4 import new_output

    notebook = nbformat.read(folder / "lab.ipynb", as_version=4)
    cells: list[dict[str, Any]] = [{} for _ in notebook.cells]

    class Recorder(NotebookClient):
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            """Take no more of what a loop prints than fits."""
            if msg["msg_type"] == "stream":
                printed = sum(len(o.text) for o in cell.outputs if o.output_type == "stream")
                room = max(0, MOST_PRINTED - printed)
                msg["content"]["text"] = msg["content"]["text"][:room]
                if not room:
                    return None
            return super().process_message(msg, cell, cell_index)

    def write_down(cell: Any, cell_index: int, execute_reply: Any) -> None:
        reply = execute_reply["content"]
        seen = [output.get("ename") for output in cell.outputs]
        if reply["status"] == "error" and reply["ename"] not in seen:  # it took too long
            error = {key: reply[key] for key in ("ename", "evalue", "traceback")}
            cell.outputs.append(new_output("error", **error))
        cells[cell_index] = {"outputs": cell.outputs}
        (folder / "result.new").write_text(json.dumps(cells))
        os.replace(folder / "result.new", folder / "result.json")

    recorder = Recorder(
        notebook,
        resources={"metadata": {"path": str(folder)}},
        timeout=limits.cell,
        iopub_timeout=30,
        raise_on_iopub_timeout=True,
        interrupt_on_timeout=True,
        error_on_timeout={"ename": "CellTimeoutError", "evalue": "", "traceback": []},
        allow_errors=True,
        on_cell_executed=write_down,
    )
    try:
        recorder.execute()
    except Exception as error:
        sys.exit(type(error).__name__)  # one of WORDS; the message may be long


if __name__ == "__main__":
    inside(json.loads(sys.argv[1]))
