"""Files from elsewhere: sizes are looked at before memory is taken, and no code of theirs runs."""

from __future__ import annotations

import io
import os
import pickletools
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["LARGEST_JSON", "NotPlainError", "damaged", "load_saved", "read_sized", "refuse_swollen"]

LARGEST_JSON = 10**8  # bytes of a record, report or notebook; a report on 1,000 classes has 8 million
# What a state dict's pickle asks for and consists of. PyTorch's careful reader, weights_only, allows more, a
# few bytes of which take gigabytes, hours or the stack.
PLAIN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor(_v[23])?|parameter)"
    r"|torch\.nn\.parameter Parameter|torch(\.storage)? \w+Storage"
    r"|torch (Size|device|bool|b?float\d+(_\w+)?|u?int\d+)"
)
CODES = re.compile(
    r"PROTO|STOP|MARK|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|SHORT_BINSTRING|GLOBAL"
    r"|EMPTY_(LIST|DICT|TUPLE)|TUPLE[123]?|APPENDS?|SETITEMS?|(LONG_)?BIN(PUT|GET)|REDUCE|NEWOBJ|BUILD|BINPERSID"
)
SAID = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # they yield the bytes that they say, and no more
FILLED = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}  # they put something into what is there
LARGEST_PICKLE = 1 << 22  # bytes, without the numbers in the tensors; torchvision's ResNet-152 has 115,291
LARGEST_TREE, DEEPEST = 1 << 21, 30  # values and letters, as if nothing were shared; levels
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch.save began before it wrote archives


class NotPlainError(ValueError):
    """A file of ``torch.save`` holds more than tensors, numbers and names."""


def read_sized(path: Path, most: int) -> bytes:
    """Read a regular file, unless it is larger than any real one: looked at before memory is taken.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it has more than ``most`` bytes, or is a pipe, which may never say anything.

    Example:
        >>> count = Path("batch").write_bytes(b"12345")
        >>> read_sized(Path("batch"), 5)
        b'12345'
        >>> read_sized(Path("batch"), 4)
        Traceback (most recent call last):
        ValueError: batch has 5 bytes, at most 4 are possible
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError(f"{path.name} is no regular file")
    if size > most:
        raise ValueError(f"{path.name} has {size:,} bytes, at most {most:,} are possible")
    return path.read_bytes()


def refuse_swollen(path: str | Path, *, most: int | None = None) -> None:
    """Raise ``ValueError`` if a ZIP file says that it holds more than ``most`` bytes; others are left alone.

    By default that is its own size, since PyTorch and ``numpy.savez`` compress nothing; more is a bomb, a
    small file that fills the memory.

    Example:
        >>> with zipfile.ZipFile("zeros.pt", "w", zipfile.ZIP_DEFLATED) as parts:
        ...     parts.writestr("data", bytes(10_000))
        >>> refuse_swollen("zeros.pt", most=10_000)
        >>> refuse_swollen("zeros.pt")
        Traceback (most recent call last):
        ValueError: it says that it holds 10,000 bytes, of ... at most
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            inside = sum(part.file_size for part in parts.infolist())
            if any(part.compress_type not in SAID for part in parts.infolist()):
                raise ValueError("it is compressed in a way that says nothing of its size")
        most = os.stat(path).st_size if most is None else most
        if inside > most:
            raise ValueError(f"it says that it holds {inside:,} bytes, of {most:,} at most")


def load_saved(path: str | Path, device: torch.device | str = "cpu", *, archive: bool = False) -> Any:
    """Return what ``torch.save`` wrote, as long as it is tensors, numbers and names: no code of it runs.

    Sizes, check sums and the kinds of objects are looked at first. Dictionaries come back as plain ones.
    ``archive`` refuses the format of PyTorch before 1.6, which has no check sums.

    Raises:
        NotPlainError: If it holds anything else.
        ValueError: If it is no file of ``torch.save``, or a size or a check sum is wrong.
        Exception: If it is broken in another way; of any kind, since the unpickler meets arbitrary bytes.

    Example:
        >>> torch.save({"weight": torch.zeros(2)}, "good.pt")
        >>> load_saved("good.pt")
        {'weight': tensor([0., 0.])}
        >>> torch.save(torch.nn.ReLU(), "bad.pt")
        >>> load_saved("bad.pt")
        Traceback (most recent call last):
        resnet_tutorial.untrusted.NotPlainError: it asks for torch.nn.modules.activation ReLU
    """
    with open(path, "rb") as file:
        head = file.read(LARGEST_PICKLE)
    if head.startswith(b"PK\3\4"):
        _check_archive(path)
    elif archive or not head.startswith(LEGACY):
        raise ValueError("it does not begin as what torch.save writes" if head else "it is empty")
    else:
        pickles = io.BytesIO(head)
        for _ in range(5):  # a mark, a version, the machine, the objects, the keys of their numbers
            _check_pickle(pickles)
    with warnings.catch_warnings(action="ignore"):  # of PyTorch's, on odd kinds of tensors
        return _plain(torch.load(path, map_location=device, weights_only=True))


def _check_archive(path: str | Path) -> None:
    """Refuse a ZIP file that is damaged, or that PyTorch's reader might take for another than Python's."""
    with zipfile.ZipFile(path) as parts, open(path, "rb") as file:
        names = [part.filename.lower() for part in parts.infolist()]
        if len(set(names)) < len(names):
            raise ValueError("it has two parts of one name")
        if any(name.endswith("constants.pkl") for name in names):
            raise NotPlainError("it holds a TorchScript program")
        if any(part.compress_type or part.file_size != part.compress_size for part in parts.infolist()):
            raise ValueError("it is compressed, which torch.save never does")
        file.seek(-22, os.SEEK_END)  # the end of the directory, without a comment after it
        mark, start, comment = struct.unpack("<4s12xIH", file.read(22))
        if start == 0xFFFFFFFF:  # of more than 4 GB: the place of the true end stands before
            file.seek(-42, os.SEEK_END)
            file.seek(struct.unpack("<8xQ4x", file.read(20))[0])
            start = struct.unpack("<48xQ", file.read(56))[0]
        if mark != b"PK\5\6" or comment or start != parts.start_dir:
            raise ValueError("its directory is not where it says")
        if broken := parts.testzip():  # torch.load does not look at the check sums
            raise ValueError(f"the check sum of {broken} is wrong")
        for part in parts.infolist():
            if part.filename.lower().endswith(".pkl"):
                if part.file_size > LARGEST_PICKLE:
                    raise ValueError(
                        f"its pickle has {part.file_size:,} bytes, of {LARGEST_PICKLE:,} at most"
                    )
                _check_pickle(io.BytesIO(parts.read(part)))


@dataclass
class _Value:
    """What is known of a value in a pickle that was only looked at."""

    size: int  # as if nothing in it were shared
    depth: int = 0
    part: bool = False  # of another value, so it changes no more


def _check_pickle(file: io.BytesIO) -> None:
    """Refuse a pickle that is not plain, deep, or large once what it shares is written out; it is not run."""
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[int, _Value] = {}
    for code, value, _ in pickletools.genops(file):
        if not CODES.fullmatch(code.name) or (code.name == "GLOBAL" and not PLAIN.fullmatch(str(value))):
            raise NotPlainError(f"it asks for {value if code.name == 'GLOBAL' else code.name}"[:100])
        if code.name == "MARK":
            marks.append(len(stack))
        elif code.name.endswith("BINPUT"):
            memo[int(str(value))] = stack[-1]
        elif code.name.endswith("BINGET"):
            stack.append(memo[int(str(value))])
        else:
            marked = pickletools.markobject in code.stack_before
            filled = code.name in FILLED
            start = marks.pop() if marked else len(stack) - len(code.stack_before) + filled
            if start < filled:
                raise ValueError("its pickle is damaged")
            inside = stack[start:]
            del stack[start:]
            whole = stack[-1] if filled else _Value(1 + (len(value) if isinstance(value, str) else 0))
            for one in inside:
                whole.size += one.size
                whole.depth = max(whole.depth, one.depth + 1)
                one.part = True
            if whole.part or whole.size > LARGEST_TREE or whole.depth > DEEPEST:
                raise ValueError("its values are nested as those of no state dict")
            if not filled and code.stack_after:
                stack.append(whole)


def _plain(value: Any) -> Any:
    """Return dictionaries without attributes, which might stand in the way of their methods."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in dict.items(value)}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def damaged(path: str | Path, error: Exception, *, what: str) -> str:
    """Say in one line that a file is not ``what`` it should be, with the beginning of the reader's own error.

    Example:
        >>> damaged("a.pt", EOFError(), what="a checkpoint")
        'a.pt is damaged or not a checkpoint: EOFError'
    """
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"{path} is damaged or not {what}: {reason[:120]}"
