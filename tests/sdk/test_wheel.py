"""The distribution by itself: its built wheel in an environment without the service."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / "deploy" / "uv.sh"
# Imports every module but those that need the extra of their name, makes a sketch, and tells what
# came along.
SCRIPT = """
import importlib, importlib.metadata, json, pkgutil, sys
import velvetrope_client
extras = importlib.metadata.metadata("velvetrope-client").get_all("Provides-Extra")
for module in pkgutil.iter_modules(velvetrope_client.__path__):
    if module.name not in extras:
        importlib.import_module("velvetrope_client." + module.name)
from velvetrope_client.sketch import Sketcher
print(json.dumps({
    "at": velvetrope_client.__file__,
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "installed": sorted(d.metadata["Name"].lower() for d in importlib.metadata.distributions()),
    "sketch": Sketcher(bytes(32)).sketch("hello"),
}))
"""


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT / "sdk")
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_client_with_its_types_and_lists_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"velvetrope_client"}
    assert {"velvetrope_client/py.typed", "velvetrope_client/words.json"} <= set(names)


def test_it_works_in_an_environment_without_the_service(wheel: Path, tmp_path: Path) -> None:
    run(UV, "venv", "--quiet", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(UV, "pip", "install", "--quiet", "--python", python, wheel)
    found = json.loads(run(python, "-I", "-c", SCRIPT))
    assert Path(found["at"]).is_relative_to(tmp_path)
    assert found["sketch"].startswith("1.")
    service = {"detector", "features", "responders", "numpy", "msgspec", "redis", "starlette"}
    assert not service & {*found["modules"], *found["installed"]}
    # Two dependencies, and what httpx brings with it (typing_extensions up to Python 3.12).
    theirs = {"anyio", "certifi", "h11", "httpcore", "idna"}
    assert set(found["installed"]) - {"typing_extensions", "sniffio"} == {
        *("velvetrope-client", "altcha", "httpx"),
        *theirs,
    }
