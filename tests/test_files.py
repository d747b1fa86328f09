"""Files that are complete or not there."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_tutorial import files
from resnet_tutorial.files import atomic, claimed, remove_stale, workspace

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and signals of POSIX")


def write(path, content: bytes = b"new", **options) -> None:
    with atomic(path, **options) as file:
        file.write(content)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(b"old")
    return path


def test_the_content_arrives_under_the_name_only_at_the_end(path):
    """A reader that opens the file while it is being written sees half of it."""
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        hidden = [name for name in os.listdir(path.parent) if name != path.name]
        assert len(hidden) == 1 and hidden[0].startswith(".") and str(os.getpid()) in hidden[0]
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), MemoryError(), RuntimeError("loop"), KeyError("x")])
def test_whatever_ends_the_writing_the_old_file_survives_alone(path, failure):
    """A crash that destroys the previous file, litters the folder, or comes out as another error."""
    with pytest.raises(type(failure)) as caught, atomic(path) as file:
        file.write(b"half")
        raise failure
    assert caught.value is failure
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_is_one_line_and_the_old_file_survives(path, monkeypatch, step):
    """A traceback, or a file that has its name before it is on the disk."""

    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(ValueError, match=r"^cannot write .*results\.json: Input/output error$"):
        write(path)
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("writer", ["write", "numpy", "torch"])
def test_a_full_disk_is_one_line_whoever_writes(path, writer):
    """torch.save tells of a full disk by a RuntimeError about positions in a file."""
    resource = pytest.importorskip("resource")  # not on Windows
    content = np.random.default_rng(0).bytes(200_000)
    writers = {
        "write": lambda file: file.write(content),
        "numpy": lambda file: np.savez(file, content=np.frombuffer(content, np.uint8)),
        "torch": lambda file: torch.save({"content": torch.zeros(50_000)}, file),
    }
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with (
            pytest.raises(ValueError, match=r"^cannot write .*results\.json: File too large$"),
            atomic(path) as file,
        ):
            writers[writer](file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]


def test_directories_are_made_only_when_asked(tmp_path):
    """A run lost at its end to a missing folder, or a misspelt path silently made."""
    path = tmp_path / "new" / "deep" / "file"
    with pytest.raises(ValueError, match=r"^cannot write .*file: .*deep is not a directory$"):
        write(path)
    assert os.listdir(tmp_path) == []
    write(path, parents=True)
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


@posix
def test_a_target_that_is_no_file_is_refused_and_stays(path):
    """A directory or a device replaced; a file on the way to the target; each a traceback."""
    fifo = path.parent / "fifo"
    os.mkfifo(fifo)
    for target, reason in (
        (path.parent, "it is a directory"),
        (fifo, "it is a device or a pipe"),
        (path / "below", r"results\.json is not a directory"),
        (path / "far" / "below", "is not a directory"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            write(target, parents=True)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(path.parent)) == ["fifo", "results.json"]
    assert stat.S_ISFIFO(fifo.stat().st_mode) and path.read_bytes() == b"old"


@posix
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_stays_a_link_and_its_target_is_written(path, dangling):
    """A link to a larger disk that is replaced by a file, while what it names keeps the old content."""
    target, link, second = path, path.parent / "folder" / "link", path.parent / "second"
    link.parent.mkdir()
    link.symlink_to(target)
    second.symlink_to(link)
    if dangling:
        target.unlink()
    write(second)
    assert second.is_symlink() and link.is_symlink()
    assert target.read_bytes() == b"new" and not target.is_symlink()
    assert os.listdir(link.parent) == ["link"]


@posix
def test_links_to_what_is_no_file_are_refused_and_stay(path):
    """A pipe, a folder or a circle of links replaced by a file, behind a link."""
    folder = path.parent
    os.mkfifo(folder / "fifo")
    for name, leads_to in (("pipe", "fifo"), ("dir", "."), ("one", "two"), ("two", "one")):
        (folder / name).symlink_to(leads_to)
    for name, reason in (("pipe", "a device or a pipe"), ("dir", "it is a dir"), ("one", "lead in a circle")):
        with pytest.raises(
            ValueError, match=f"^cannot write .*{name}: .*{reason}.*: give the name of a file$"
        ):
            write(folder / name)
        assert (folder / name).is_symlink()
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)


@posix
def test_what_belongs_to_the_system_is_known_by_its_place(tmp_path):
    """/dev/stdout leads to a pipe without a name, which looks like a file that is not there yet."""
    for path, target in (
        ("/dev/stdout", "/proc/9/fd/pipe:[7]"),
        ("/tmp/../dev/stdout", "/tmp/x"),
        (tmp_path / "link", "/dev/null"),
        ("/proc/self/fd/1", "/tmp/x"),
    ):
        assert files._no_file(path, Path(target)) == "it belongs to the system"
    for path in (tmp_path / "dev" / "stdout", "/developer/x", "dev/null"):
        assert files._no_file(path, tmp_path / "x") is None


@posix
@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write everywhere")
def test_a_protected_directory_is_one_line(path):
    """A traceback for a folder that belongs to somebody else."""
    path.parent.chmod(0o500)
    try:
        with pytest.raises(ValueError, match=r"^cannot write .*results\.json: Permission denied$"):
            write(path)
    finally:
        path.parent.chmod(0o700)
    assert path.read_bytes() == b"old"


def test_permissions_are_those_of_any_new_file(tmp_path):
    """A temporary file's 0600 that a colleague cannot read."""
    write(tmp_path / "ours")
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")}
    assert len(modes) == 1


def aged(path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@posix
def test_what_a_killed_process_left_goes_with_the_next_write_a_day_later(tmp_path):
    """A job killed again and again that fills the disk with partial checkpoints."""
    path = tmp_path / "run [1].pt"  # brackets mean something in a glob pattern
    code = f"""
import os, signal
from resnet_tutorial.files import claimed, atomic
with atomic({str(path)!r}) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    write(path)
    assert sorted(os.listdir(tmp_path)) == [left, path.name]  # another process may be at work on it
    aged(tmp_path / left, files.STALE + 60)
    write(path)
    assert os.listdir(tmp_path) == [path.name]


def test_only_what_matches_and_lies_idle_is_removed(tmp_path):
    """A download under way in another process deleted because its directory is old."""
    for name in (".partial-old", ".partial-busy", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "archive").write_bytes(b"x")
        aged(tmp_path / name / "archive", 0 if name == ".partial-busy" else 1000)
        aged(tmp_path / name, 1000)
    remove_stale(tmp_path, ".partial-*", age=500)
    assert sorted(os.listdir(tmp_path)) == [".partial-busy", "other"]
    remove_stale(tmp_path / "absent", "*")


def test_a_workspace_is_gone_afterwards_whatever_happened(tmp_path):
    """Half a download that stays behind after Ctrl-C."""
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path) as work:
        (work / "archive").write_bytes(b"x")
        assert work.parent == tmp_path
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_two_writers_of_one_process_do_not_share_a_partial_file(tmp_path):
    """Both wrote to one hidden file, named after the process alone."""
    with atomic(tmp_path / "a") as first:
        with atomic(tmp_path / "a") as second:
            second.write(b"second")
        first.write(b"first")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_an_error_of_the_caller_keeps_its_meaning(tmp_path):
    """A file that the caller could not read was reported as one that could not be written."""
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


NAMES = ["run.pt", "net.pt", "log"]


def fill(out: Path, text: str) -> None:
    out.mkdir(exist_ok=True)
    for name in NAMES:
        (out / name).write_text(text)


def seen(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("before", range(12))
def test_a_kill_at_any_moment_loses_neither_the_old_results_nor_mixes_them(tmp_path, monkeypatch, before):
    """Between two renames a process may be killed: the next one must find all of the old."""
    out = tmp_path / "run"
    fill(out, "old")
    calls = {"left": before}

    class Killed(BaseException):
        pass

    def dying(original):
        def call(*args, **options):
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return original(*args, **options)

        return call

    options = {"state": "run.pt", "resume": False, "overwrite": True}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        for _ in range(9):
            with claimed(out, NAMES, **options):
                pass
    with (
        pytest.raises(ValueError, match="results of an earlier run"),
        claimed(out, NAMES, state="run.pt", resume=False, overwrite=False),
    ):
        pass
    assert seen(out) == dict.fromkeys(sorted(NAMES), "old")


def test_results_put_aside_go_once_the_new_run_has_a_state(tmp_path):
    """The old network beside the new checkpoint looks like one result."""
    out = tmp_path / "run"
    fill(out, "old")
    with claimed(out, NAMES, state="run.pt", resume=False, overwrite=True):
        assert seen(out / ".resnet-tutorial-earlier") == dict.fromkeys(sorted(NAMES), "old")
        (out / "run.pt").write_text("new")
    assert seen(out) == {"run.pt": "new"}


def test_what_else_lies_in_the_directory_is_left_alone(tmp_path):
    """A reader's notes beside the results are not the program's to move or delete."""
    out = tmp_path / "run"
    fill(out, "old")
    (out / "notes.txt").write_text("mine")
    with claimed(out, NAMES, state="run.pt", resume=False, overwrite=True):
        (out / "run.pt").write_text("new")
    assert seen(out) == {"run.pt": "new", "notes.txt": "mine"}
