"""A state file belongs to one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from responders.stores.lock import StateInUse, StateLock

HOLD = """
import sys
from pathlib import Path
from responders.stores.lock import StateLock
lock = StateLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateInUse, match=f"in use by process {holder.pid}"):
            StateLock(state)
        holder.kill()
    StateLock(state).release()  # whatever way it died


def test_released_it_can_be_taken_again_in_the_same_process(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    with StateLock(state), pytest.raises(StateInUse):
        StateLock(state)
    lock = StateLock(state)
    lock.release()
    lock.release()
    StateLock(state).release()
