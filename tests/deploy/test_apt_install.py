"""Installing system parts: what is asked of apt-get, and one sentence when it cannot be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "deploy" / "apt-install.sh"


def run(tmp_path: Path, *, uid: int, apt_fails: int) -> tuple[int, str, list[str]]:
    """Exit code, stderr, calls of apt-get; its first `apt_fails` calls fail."""
    calls = tmp_path / "calls"
    calls.touch()
    programs = {
        "id": f"echo {uid}",
        "sudo": "exit 1",
        "apt-get": f'echo "$*" >> {calls}; [ "$(wc -l < {calls})" -gt {apt_fails} ]',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [SCRIPT, "Redis", "redis-server"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, calls.read_text().splitlines()


def test_root_installs_without_asking(tmp_path: Path) -> None:
    code, said, calls = run(tmp_path, uid=0, apt_fails=0)
    assert (code, said) == (0, "installing Redis: redis-server\n")
    assert calls == ["install -y -qq --no-install-recommends redis-server"]


def test_package_lists_are_fetched_when_it_does_not_work_without(tmp_path: Path) -> None:
    code, _, calls = run(tmp_path, uid=0, apt_fails=1)
    assert code == 0
    assert [call.split()[0] for call in calls] == ["install", "update", "install"]


def test_who_may_not_install_is_told_what_is_missing_in_one_sentence(tmp_path: Path) -> None:
    code, said, calls = run(tmp_path, uid=1000, apt_fails=0)
    assert (code, calls) == (1, [])
    assert said == (
        "velvetrope needs Redis (redis-server), and could not install it here: "
        "this is not root, and sudo needs a password.\n"
    )


def test_a_failing_apt_get_is_said_so(tmp_path: Path) -> None:
    code, said, _ = run(tmp_path, uid=0, apt_fails=9)
    assert code == 1
    assert said.splitlines()[-1].endswith("apt-get failed as shown above.")
