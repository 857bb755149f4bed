"""A file is the old one or the new one, whatever ends the process that writes it."""

import multiprocessing
import os
import resource
import signal
import time

import pytest
from trainable_quantizers_core import files
from trainable_quantizers_core.files import put_in_place, write_atomically

OLD, NEW = b"old" * 2**20, b"new" * 2**20
FORK = multiprocessing.get_context("fork")


def write_for_ever(path):
    while True:
        write_atomically(path, OLD)
        write_atomically(path, NEW)


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1])
def test_a_killed_writer_leaves_no_half_file(tmp_path, seconds):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    writer = FORK.Process(target=write_for_ever, args=(path,))
    writer.start()
    time.sleep(seconds)
    writer.kill()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert path.read_bytes() in (OLD, NEW)


def exchange_for_ever(one, path):
    while True:
        put_in_place(one, path)


def folder(path, content):
    path.mkdir()
    (path / "content").write_bytes(content)
    return path


def test_a_folder_is_the_old_one_or_the_new_one_at_any_moment(tmp_path):
    path = folder(tmp_path / "model", b"old")
    writer = FORK.Process(target=exchange_for_ever, args=(folder(tmp_path / "written", b"new"), path))
    writer.start()
    present = [path.is_dir() for _ in range(20_000)]
    writer.kill()
    writer.join()
    assert all(present)
    assert {(tmp_path / name / "content").read_bytes() for name in ("model", "written")} == {b"old", b"new"}


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("before", ["a folder", "a file", "nothing"])
def test_a_folder_takes_the_place_of_what_is_there(before, exchanges, tmp_path, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)  # as a system that cannot
    path, written = tmp_path / "model", folder(tmp_path / "written", b"new")
    if before == "a folder":
        folder(path, b"old")
    elif before == "a file":
        path.write_bytes(b"old")
    put_in_place(written, path)
    assert (path / "content").read_bytes() == b"new"
    assert written.exists() == (before != "nothing")
    assert {each.name for each in tmp_path.iterdir()} <= {"model", "written"}


def test_an_older_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path):
    path = folder(tmp_path / "model", b"old")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "written", path)  # nothing was written
    assert (path / "content").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def write_with_little_room(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    try:
        write_atomically(path, NEW)
    except OSError:
        os._exit(3)


@pytest.mark.parametrize("existing", [OLD, None])
def test_where_there_is_no_room_nothing_changes(tmp_path, existing):
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)
    writer = FORK.Process(target=write_with_little_room, args=(path,))
    writer.start()
    writer.join()
    assert writer.exitcode == 3
    assert list(tmp_path.iterdir()) == ([] if existing is None else [path])
    assert existing is None or path.read_bytes() == existing
