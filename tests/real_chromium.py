"""A real headless Chromium on one page, in a profile of its own, ended with all its processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["chromium"]


@contextmanager
def chromium(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Open a URL until the block ends; the page reports over HTTP, to whom the test listens.

    Raises RuntimeError when Chromium is not installed.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise RuntimeError("chromium is not installed: `apt-get install chromium` brings it")
    profile = Path(tempfile.mkdtemp(prefix="velvetrope-chromium-"))
    # Its sandbox works neither for root nor in most containers, and the page is the test's own.
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--no-first-run", "--disable-background-networking"]
    process = subprocess.Popen(
        [program, *options, f"--user-data-dir={profile}", url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # The group is its own session's: the browser and its children, nothing else.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)
