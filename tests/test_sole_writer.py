"""A run folder has one writer, what killed writers left is removed, a full disk loses nothing."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from ttq_energy.errors import InputError
from ttq_energy.files import (
    LOCK,
    UNFINISHED,
    atomic_writer,
    remove_unfinished,
    sole_writer,
    user_path,
)

HOLD = """
import sys, time
from ttq_energy.files import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_holds_the_folder_until_that_one_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=f"process {holder.pid} is writing this run"),
            sole_writer(tmp_path),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (tmp_path / LOCK).exists()  # nobody was left to remove it
    with sole_writer(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT])
def test_a_file_that_finds_no_room_is_told_in_one_line_and_the_old_one_stands(tmp_path, number):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write():
        with atomic_writer(path) as stream:
            stream.write("half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(InputError, match=f"table.csv: cannot be written: {os.strerror(number)}"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_true_limit_of_size_is_met_without_loss(tmp_path):
    code = (
        "import resource, sys\n"
        "from ttq_energy.files import atomic_writer\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with atomic_writer(sys.argv[1], 'wb') as stream:\n"
        "    stream.write(bytes(100_000))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "f")], capture_output=True, text=True
    )
    assert "InputError" in result.stderr
    assert "f: cannot be written: File too large" in result.stderr
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    for name in (f".run.json.abc{UNFINISHED}", "run.json", ".hidden"):
        (tmp_path / name).write_text("x")
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "run.json"]


def test_a_name_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("a" * 250 + ".html")
    with atomic_writer(path) as stream:
        stream.write("x")
    assert path.read_text() == "x"


def test_paths_as_people_type_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x", "out") == tmp_path / "x"
    with pytest.raises(InputError, match="out: expected a path, got ''"):
        user_path("", "out")
    with pytest.raises(InputError, match="out: expected a path, got 5"):
        user_path(5, "out")
