"""An output belongs to one run at a time, and to none that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastedit.files.locks import locked, locked_folder

HOLDS = """
import sys, time
from pathlib import Path
from fastedit.files.locks import locked, locked_folder
with {lock}(Path(sys.argv[1])):
    print("held", flush=True)
    {then}
"""


@pytest.fixture
def holder():
    """Starts a process that holds an output until it is killed; of several, all at the end."""
    started = []

    def start(output, lock="locked", then="time.sleep(60)"):
        command = [sys.executable, "-c", HOLDS.format(lock=lock, then=then), str(output)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(params=["file", "folder"])
def output(request, tmp_path):
    if request.param == "folder":
        (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_the_second_is_told_who_holds_it(output, holder):
    first = holder(output)
    with pytest.raises(BlockingIOError) as refused, locked(output):
        pass
    said = str(refused.value)
    assert "\n" not in said and f"{output} is in use by another run (pid {first.pid} on " in said
    assert " since 2" in said and f": {sys.executable} -c " in said
    assert said.endswith("wait for its end, or give another --output")


def test_a_killed_process_holds_nothing(output, holder):
    first = holder(output)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = output / ".lock" if output.is_dir() else output.with_name("out.lock")
    assert json.loads(left.read_text())["pid"] == first.pid
    with locked(output):
        assert json.loads(left.read_text())["pid"] == os.getpid()
    assert not left.exists()


def test_nor_does_what_it_has_forked(output, holder):
    """A worker that outlives its parent, as those of a pool do for a while."""
    fork = "import os; os.fork() and (time.sleep(0.3), os.kill(os.getpid(), 9)); time.sleep(3)"
    first = holder(output, then=fork)
    first.wait()
    with locked(output):
        pass


def test_a_forked_process_does_not_let_go_either(output):
    with locked(output):
        child = os.fork()
        if child == 0:
            os._exit(0 if _ends_its_copy() else 1)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(BlockingIOError), locked(output):
            pass


def _ends_its_copy() -> bool:
    from fastedit.files import locks

    return not locks._held


def test_one_output_by_several_names_is_one(tmp_path, holder):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real" / "g.jsonl")
    for one, other in (("real", "link"), ("real/g.jsonl", "link.jsonl")):
        holder(tmp_path / one)
        for name in (other, f"real/../{other}", one):
            with pytest.raises(BlockingIOError), locked(tmp_path / name):
                pass


def test_a_lock_of_one_output_is_none_of_another(tmp_path, holder):
    holder(tmp_path / "one.jsonl")
    with locked(tmp_path / "two.jsonl"), locked(tmp_path):
        pass


def test_a_folder_is_made_and_removed_where_nothing_is_written(tmp_path):
    folder = tmp_path / "a" / "b"
    with pytest.raises(ValueError), locked_folder(folder):
        assert folder.is_dir()
        raise ValueError
    assert not (tmp_path / "a").exists()
    with locked_folder(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]
    with locked_folder(folder):  # which was there before
        (folder / "result").unlink()
    assert folder.is_dir()


def test_a_lock_that_was_removed_in_between_is_not_held(tmp_path, monkeypatch):
    """The run before ends between the opening of its file and the lock on it."""
    import fcntl

    flock, removed = fcntl.flock, []

    def late(descriptor, operation):
        if not removed:
            removed.append((tmp_path / "out.lock").unlink())
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path / "out"):
        assert (tmp_path / "out.lock").exists()
        with pytest.raises(BlockingIOError), locked(tmp_path / "out"):
            pass


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "poetry.lock").write_text("[[package]]")
    refused = pytest.raises(FileExistsError, match=r"poetry\.lock would lock .*no run has made it")
    with refused, locked(tmp_path / "poetry"):
        pass
    assert (tmp_path / "poetry.lock").read_text() == "[[package]]"


@pytest.mark.parametrize("content", ["", '{"pid"', '{"pid": 1, "ho'])
def test_what_a_killed_run_had_half_written_is_no_obstacle(tmp_path, content):
    (tmp_path / "out.lock").write_text(content)
    with locked(tmp_path / "out"):
        assert json.loads((tmp_path / "out.lock").read_text())["pid"] == os.getpid()


def test_devices_are_not_locked():
    with locked(Path("/dev/null")), locked(Path("/dev/null")):
        assert not Path("/dev/null.lock").exists()


def test_a_file_system_without_locks_brings_a_warning(tmp_path, monkeypatch):
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    warns = pytest.warns(UserWarning, match="cannot be locked here")
    with warns, locked(tmp_path / "out"):
        pass


def test_pipes_are_not_locked(tmp_path):
    reading, writing = os.pipe()
    os.mkfifo(tmp_path / "fifo")
    try:
        for pipe in (
            tmp_path / "fifo",
            Path(f"/proc/self/fd/{writing}"),
            Path(f"/dev/fd/{writing}"),
        ):
            with locked(pipe), locked(pipe):
                assert not list(tmp_path.glob("*.lock"))
    finally:
        os.close(reading)
        os.close(writing)


def test_links_in_a_circle_are_named(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match=r"a leads nowhere"), locked(tmp_path / "a"):
        pass


@pytest.mark.parametrize("code", ["EACCES", "EROFS", "ENAMETOOLONG"])
def test_a_lock_that_cannot_be_written_brings_a_warning(tmp_path, monkeypatch, code):
    """Beside an output that can."""
    import errno

    real = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(".lock"):
            raise OSError(getattr(errno, code), "no lock file")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    warns = pytest.warns(UserWarning, match=r"cannot be locked here \(no lock file\)")
    with warns, locked(tmp_path / "out"):
        pass
