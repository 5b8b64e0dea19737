"""Inputs come out as bytes, packed or not, and say what could not be read."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from detector.runners.inputs import STDIN, Inputs, UnreadableInput


def read(*files: Path, stdin: bytes = b"") -> list[tuple[str, bytes]]:
    return [(name, b"".join(chunks)) for name, chunks in Inputs(files, io.BytesIO(stdin))]


def test_inputs_come_in_the_order_given(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1\n")
    b.write_bytes(b"2\n")
    assert read(b, STDIN, a, stdin=b"3") == [(str(b), b"2\n"), ("-", b"3"), (str(a), b"1\n")]


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    packed = tmp_path / "log"
    packed.write_bytes(gzip.compress(b"1\n") + gzip.compress(b"2\n") + b"\0" * 512)
    assert read(packed) == [(str(packed), b"1\n2\n")]
    assert read(STDIN, stdin=gzip.compress(b"3\n")) == [("-", b"3\n")]


def test_progress_counts_the_bytes_as_stored(tmp_path: Path) -> None:
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(b"x" * 100_000))
    inputs = Inputs([packed])
    assert sum(len(chunk) for _, chunks in inputs for chunk in chunks) == 100_000
    assert inputs.read == inputs.size == packed.stat().st_size
    assert Inputs([packed, STDIN]).size is None


@pytest.mark.parametrize("cut", [1, 10, 20])
def test_damaged_gzip_says_so(tmp_path: Path, cut: int) -> None:
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(b"some text, longer than a little")[:-cut])
    with pytest.raises(UnreadableInput, match=r"log\.gz: damaged gzip data"):
        read(packed)


def test_a_missing_file_is_known_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="nowhere: No such file or directory"):
        Inputs([tmp_path / "nowhere"])


def test_a_folder_is_not_an_input(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="Is a directory"):
        Inputs([tmp_path])
