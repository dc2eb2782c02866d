"""Files are written whole or not at all."""

import os

import pytest

from ttq_energy.errors import InputError
from ttq_energy.files import atomic_writer, profiles_folder, writable_folder


def test_a_written_file_replaces_the_old_one_and_obeys_the_umask(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    before = os.umask(0o027)
    try:
        with atomic_writer(path) as stream:
            stream.write("new")
            assert path.read_text() == "old"
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic_writer(path) as stream:
            stream.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot write here"), atomic_writer(tmp_path / "no" / "a"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file is in the way"):
        writable_folder(tmp_path / "file")


def test_shipped_profiles_are_found():
    assert list(profiles_folder("studies").glob("*.yaml"))
    assert list(profiles_folder("targets").glob("*.yaml"))
