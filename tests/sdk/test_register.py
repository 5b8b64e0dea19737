"""The mark register: encrypted, capped, and read back by a holder of the keyring alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.register import BadRegister, MarkRegister, read
from velvetrope_client.watermark import Question, Watermark

OLD, NEW = Key("old", b"o" * 32), Key("new", b"n" * 32)
RING = Keyring((NEW, OLD))


def question(n: int, subject: str = "acct-1", key: Key = NEW) -> Question:
    return Question(key.id, subject, f"t:a secret {n}", f"A secret {n}?", "0", ("0", "1"))


def write(path: Path, *questions: Question, key: Key = NEW, **caps: int) -> None:
    register = MarkRegister(path, key, **caps)
    for one in questions:
        register.record(one)
    register.close()


def test_questions_read_back_as_they_were_written(tmp_path: Path) -> None:
    vector = Question("new", "c-1", "2:0,0", [0.5, 2.0], "a", ("a", "b"), 0.003)
    write(tmp_path / "marks", question(1), vector)
    assert list(read(tmp_path / "marks", RING)) == [question(1), vector]


def test_nothing_of_a_question_is_in_the_file(tmp_path: Path) -> None:
    write(tmp_path / "marks", question(1))
    held = (tmp_path / "marks").read_bytes()
    assert not any(word in held for word in (b"secret", b"acct-1"))


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    write(tmp_path / "marks")
    assert (tmp_path / "marks").stat().st_mode & 0o777 == 0o600


def test_what_older_keys_wrote_is_read_after_a_rotation(tmp_path: Path) -> None:
    write(tmp_path / "marks", question(1, key=OLD), key=OLD)
    write(tmp_path / "marks", question(2))
    assert [q.key_id for q in read(tmp_path / "marks", RING)] == ["old", "new"]


def test_a_repeated_question_is_kept_once(tmp_path: Path) -> None:
    write(tmp_path / "marks", question(1), question(1))
    write(tmp_path / "marks", question(1))
    assert list(read(tmp_path / "marks", RING)) == [question(1)]


def test_a_full_register_takes_no_more(tmp_path: Path) -> None:
    write(tmp_path / "marks", *map(question, range(100)), max_bytes=2_000)
    assert 0 < (tmp_path / "marks").stat().st_size <= 2_000


def test_a_subject_has_its_share_and_no_more(tmp_path: Path) -> None:
    many = [question(n) for n in range(10)]
    write(tmp_path / "marks", *many, question(1, "acct-2"), max_per_subject=3)
    kept = [q.subject for q in read(tmp_path / "marks", RING)]
    assert kept == ["acct-1"] * 3 + ["acct-2"]


def test_a_line_cut_short_by_a_crash_costs_that_line_alone(tmp_path: Path) -> None:
    write(tmp_path / "marks", question(1), question(2))
    whole = (tmp_path / "marks").read_bytes()
    (tmp_path / "marks").write_bytes(whole[:-40])
    write(tmp_path / "marks", question(3))
    assert list(read(tmp_path / "marks", RING)) == [question(1), question(3)]


@pytest.mark.parametrize("length", [1, 5, 6, 40])
@pytest.mark.parametrize("between", [b"", b"\n"])
def test_what_a_write_left_when_the_disk_was_full_costs_its_line_alone(
    tmp_path: Path, length: int, between: bytes
) -> None:
    write(tmp_path / "marks", question(1), question(2))
    first, second = (tmp_path / "marks").read_bytes().splitlines(keepends=True)
    (tmp_path / "marks").write_bytes(first + first[:length] + between + second)
    assert list(read(tmp_path / "marks", RING)) == [question(1), question(2)]


def test_another_key_of_the_same_name_is_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "marks", question(1))
    with pytest.raises(BadRegister, match="line 1: not written with key new"):
        list(read(tmp_path / "marks", Keyring((Key("new", b"x" * 32),))))


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "marks", question(1))
    with pytest.raises(BadRegister, match="line 1: key 'new' is not in the keyring"):
        list(read(tmp_path / "marks", Keyring((OLD,))))


def test_a_line_of_another_key_cannot_be_renamed(tmp_path: Path) -> None:
    write(tmp_path / "marks", question(1))
    renamed = (tmp_path / "marks").read_text().replace('"new"', '"old"')
    (tmp_path / "marks").write_text(renamed)
    with pytest.raises(BadRegister, match="not written with key old"):
        list(read(tmp_path / "marks", RING))


def test_a_key_that_is_no_text_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "marks").write_text('{"key": [1], "sealed": ""}\n')
    with pytest.raises(BadRegister, match="line 1: key '\\[1\\]' is not in the keyring"):
        list(read(tmp_path / "marks", RING))


def test_another_file_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "marks").write_text("id,label\n")
    with pytest.raises(BadRegister, match="line 1: no line of a mark register"):
        list(read(tmp_path / "marks", RING))


def test_a_watermark_writes_its_marks_and_controls(tmp_path: Path) -> None:
    register = MarkRegister(tmp_path / "marks", NEW)
    watermark = Watermark(NEW, register=register)
    for n in range(1_000):
        watermark.answer("acct-1", f"text {n}", "0", ["0", "1"])
    # 40 expected, standard deviation 6.2.
    assert 20 < len(list(read(tmp_path / "marks", RING))) < 60


def test_two_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    one, other = MarkRegister(tmp_path / "marks", NEW), MarkRegister(tmp_path / "marks", OLD)
    for n in range(20):
        one.record(question(n))
        other.record(question(n, key=OLD))
    assert len(list(read(tmp_path / "marks", RING))) == 40
