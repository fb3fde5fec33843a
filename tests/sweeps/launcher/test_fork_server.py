"""What jobs are forked from: signals that are meant for the launcher do not end it, not even while it still imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradhorizon.sweeps.launcher.process import Report

SIGNALLED = """
import multiprocessing, os, signal, sys
from multiprocessing import forkserver
from gradhorizon.sweeps.launcher.process import Job, RunningJob, ensure_fork_server
from gradhorizon.sweeps.launcher.slots import Slot

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["slow_to_import"])
ensure_fork_server()
server = forkserver._forkserver._forkserver_pid
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    os.kill(server, number)
running = RunningJob(context, Job(0, "", signal.pthread_sigmask, (signal.SIG_BLOCK, ())), Slot(0), 1)
while not running.is_over():
    pass
print(forkserver._forkserver._forkserver_pid == server, running.report(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.slow
def test_ctrl_c_sigterm_and_a_closed_terminal_do_not_end_it_while_launcher_and_jobs_hear_them(tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1)\n")
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    done = subprocess.run([sys.executable, "signalled.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"True {Report('finished', value=set())} set()\n", done.stderr
