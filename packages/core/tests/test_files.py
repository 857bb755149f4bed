"""A file is the old one or the new one, whatever ends the process that writes it."""

import multiprocessing
import os
import resource
import signal
import time

import pytest
from trainable_quantizers_core.files import write_atomically

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
