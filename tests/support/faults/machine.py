"""What this machine does not let us do, as a reason to skip; an empty one if it does."""

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["MOUNTS", "lacks_fuse", "lacks_loops", "lacks_mounts"]

MOUNTS = ("unshare", "--mount")
"""The command that gives a process its own mounts."""


def lacks_mounts() -> str:
    """Mounts of our own, which take root."""
    if os.getuid() != 0 or not shutil.which("unshare"):
        return "needs root and unshare"
    probe = [*MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    failed = subprocess.run(probe, capture_output=True, check=False).returncode
    return "needs a machine on which `unshare --mount` works" if failed else ""


def lacks_loops() -> str:
    """File systems in files."""
    if not shutil.which("mkfs.ext4"):
        return "needs mkfs.ext4"
    free = subprocess.run(["losetup", "--find"], capture_output=True, check=False)
    return "needs loop devices" if free.returncode else lacks_mounts()


def lacks_fuse() -> str:
    """File systems of our own."""
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        return f"needs the package mfusepy and libfuse ({error})"
    return lacks_mounts() if Path("/dev/fuse").exists() else "needs /dev/fuse"
