"""A benchmark's processes end when the benchmark does, even if it is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
from set_address import ROOT

SCRIPT = """
import os, sys, time
sys.path.insert(0, {folder!r})
from workers import pool_of

def report():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with pool_of(1) as pool:
        pool.submit(report).result()
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process as POSIX does")
def test_workers_end_with_a_benchmark_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(ROOT / "benchmarks")))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as run:
        worker = int(run.stdout.readline())
        assert is_running(worker)
        run.kill()
    deadline = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)
