"""Processes of a command's own."""

import subprocess
import sys

import psutil

PARENT = """
import os, time
from training.processes import pool
with pool(1) as processes:
    print(processes.submit(os.getpid).result(), flush=True)
    processes.submit(time.sleep, 3600).result()
"""


def test_a_process_in_the_middle_of_its_work_ends_with_the_command_that_was_killed():
    command = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(command.stdout.readline()))
    command.kill()
    command.wait()
    gone, alive = psutil.wait_procs([child], timeout=120)
    assert gone and not alive
