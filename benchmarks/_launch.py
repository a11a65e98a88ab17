"""Start a command and report what it took: `_launch.py FD COMMAND...` writes JSON to descriptor FD.

A new process's peak memory begins at that of the process which started it, so that the parent must
be a small one; this one is.
"""

import json
import os
import subprocess
import sys
import time

began = time.perf_counter()
child = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(child.pid, 0)
wall_s = time.perf_counter() - began
report = {
    "returncode": os.waitstatus_to_exitcode(status),
    "wall_s": wall_s,
    "cpu_s": usage.ru_utime + usage.ru_stime,
    # Linux counts in KiB, macOS in bytes.
    "peak_rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
}
os.write(int(sys.argv[1]), json.dumps(report).encode())
