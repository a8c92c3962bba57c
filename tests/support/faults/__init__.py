"""Faults that a store of plans must survive, as drivers that count.

Each driver is a function of its size that returns counts. `tests/cache/test_faults.py` runs them
small, `tests/gate.py` in full. Those that kill, fork, or set limits run in a process of their own:

    python -m faults kill 300 O_TMPFILE
"""

import json
import os
import subprocess
import sys

__all__ = ["Counts", "run"]

Counts = dict[str, int]


def run(
    driver: str, *arguments: object, timeout: float = 3000, prefix: tuple[str, ...] = ()
) -> Counts:
    """What a driver counted in a process of its own.

    Args:
        driver: a function of `faults.drivers`, or of another module of `faults` as `module.name`.
        arguments: what to call it with: numbers and strings.
        timeout: in seconds.
        prefix: a command that runs the process, like `unshare`.
    """
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "faults", driver, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{driver}: exit code {done.returncode}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])
