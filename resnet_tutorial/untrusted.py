"""Files from elsewhere: sizes are looked at before memory is taken, and no code of theirs runs."""

from __future__ import annotations

import io
import os
import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["LARGEST_JSON", "NotPlainError", "damaged", "load_saved", "read_sized", "refuse_swollen"]

LARGEST_JSON = 10**8  # bytes of a record, report or notebook; a report on 1,000 classes has 8 million
# What a state dict's pickle consists of. PyTorch's careful reader, weights_only, allows more, a few bytes of
# which take gigabytes, hours or the stack.
CONSTANTS = {
    **dict.fromkeys(["NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT"], "other"),
    **dict.fromkeys(["BININT", "BININT1", "BININT2", "LONG1"], "int"),
    **dict.fromkeys(["BINUNICODE", "SHORT_BINSTRING"], "str"),
}
PLAIN = {"str", "int", "other", "tuple", "dict"}
# What names the numbers of a tensor: "storage", type, key, place, how many; before archives also None.
NUMBERS = re.compile(r"str torch(?:\.storage)? (\w+)Storage str str int( other)?")
BYTES = {
    **{"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1},
    **{"Byte": 1, "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1},
}
KIND = re.compile(r"torch (b?float\d+(_\w+)?|complex\d+|u?int\d+|bool)")
SAID = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # they yield the bytes that they say, and no more
LARGEST_PICKLE = 1 << 22  # bytes, without the numbers in the tensors; torchvision's ResNet-152 has 115,291
LARGEST_TREE, DEEPEST = 1 << 21, 30  # values and letters, as if nothing were shared; levels
MOST_CODES = 10**6  # operations of a pickle; torchvision's ResNet-152 has 31,570
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
        _check_legacy(head, os.stat(path).st_size)
    with warnings.catch_warnings(action="ignore"):  # of PyTorch's, on odd kinds of tensors
        found = torch.load(path, map_location=device, weights_only=True)
    return _plain(found, most=os.stat(path).st_size)


def _check_archive(path: str | Path) -> None:
    """Refuse a ZIP file that is damaged, or that PyTorch's reader might take for another than Python's."""
    with zipfile.ZipFile(path) as parts, open(path, "rb") as file:
        found, size = parts.infolist(), os.fstat(file.fileno()).st_size
        if len({part.filename.lower() for part in found}) < len(found):
            raise ValueError("it has two parts of one name")
        pickles = [part for part in found if part.filename.lower().endswith(".pkl")]
        if len(pickles) != 1:
            raise NotPlainError("it holds a program of TorchScript, or no pickle")
        if any(part.compress_type or part.file_size != part.compress_size for part in found):
            raise ValueError("it is compressed, which torch.save never does")
        if sum(part.file_size for part in found) > size:
            raise ValueError("its parts overlap")
        end = file.seek(max(0, size - 98))
        tail = file.read().rjust(98, b"\0")  # the end of the directory: a long and a short form, no comment
        mark, start, comment = struct.unpack("<4s12xIH", tail[76:])
        if tail[56:60] == b"PK\6\7":  # where the long form is
            mark = mark if tail[:4] == b"PK\6\6" and struct.unpack("<8xQ4x", tail[56:76])[0] == end else b""
            start = struct.unpack("<48xQ", tail[:56])[0]
        if mark != b"PK\5\6" or comment or start != parts.start_dir:
            raise ValueError("its directory is not where it says")
        if broken := parts.testzip():  # torch.load does not look at the check sums
            raise ValueError(f"the check sum of {broken} is wrong")
        if pickles[0].file_size > LARGEST_PICKLE:
            raise ValueError(f"its pickle has {pickles[0].file_size:,} bytes, {LARGEST_PICKLE:,} at most")
        _, asked = _check_pickle(io.BytesIO(parts.read(pickles[0])))
        folder = pickles[0].filename.rpartition("/")[0]
        for key, many in asked.items():
            if parts.getinfo(f"{folder}/data/{key}").file_size != many:
                raise ValueError(f"its numbers {key} are not {many:,} bytes")


def _check_legacy(head: bytes, size: int) -> None:
    """Refuse an odd file of the format before archives: five pickles, then numbers without check sums."""
    with suppress(tarfile.HeaderError):  # PyTorch would try it as one, which can take hours
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
        raise ValueError("it is a tar archive, too")
    pickles = io.BytesIO(head)
    for _ in range(3):  # a mark, a version, the machine
        _check_pickle(pickles)
    _, asked = _check_pickle(pickles)
    keys, _ = _check_pickle(pickles)  # in the order of the file
    if sorted(str(one.known) for one in keys.inside) != sorted(asked) or sum(asked.values()) > size:
        raise ValueError("its numbers are not those that its tensors ask for")


@dataclass(slots=True)
class _Value:
    """What is known of a value in a pickle that was only looked at."""

    kind: str  # str, int, other, tuple, list, dict, storage, tensor, or the name of a global
    known: str | int = ""  # the value of a str or int; of a storage how many numbers it has
    inside: list[_Value] = field(default_factory=list)  # of a tuple or list
    size: int = 1  # as if nothing in it were shared
    depth: int = 0
    part: bool = False  # of another value, so it changes no more

    def take(self, values: list[_Value]) -> None:
        """Put values into it."""
        for one in values:
            self.size += one.size
            self.depth = max(self.depth, one.depth + 1)
            one.part = True
        if self.part or self.size > LARGEST_TREE or self.depth > DEEPEST:
            raise ValueError("its values are nested as those of no state dict")
        if self.kind in ("tuple", "list"):
            self.inside += values


def _check_pickle(file: io.BytesIO) -> tuple[_Value, dict[str, int]]:
    """Refuse a pickle that is not plain, deep, or large once what it shares is written out; it is not run.

    Returns:
        What it holds, and the keys of the numbers that its tensors ask for, with their bytes.
    """
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[int, _Value] = {}
    asked: dict[str, int] = {}

    def taken(many: int | None) -> list[_Value]:
        """Take so many values from the stack, or those after the last mark."""
        start = marks.pop() if many is None else len(stack) - many
        if start < (marks[-1] if marks else 0):
            raise ValueError("its pickle is damaged")
        values = stack[start:]
        del stack[start:]
        return values

    for number, (code, value, _) in enumerate(pickletools.genops(file)):
        name = code.name
        if number > MOST_CODES:
            raise ValueError("its pickle is longer than that of any state dict")
        if name in CONSTANTS:
            kind = CONSTANTS[name]
            if isinstance(value, int) and abs(value) >= 1 << 60:  # there are many of one hash
                kind = "other"
            known = value if isinstance(value, (str, int)) else ""
            stack.append(_Value(kind, known, size=1 + len(value) if isinstance(value, str) else 1))
        elif name == "GLOBAL":
            stack.append(_Value(str(value)))
        elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
            stack.append(_Value(name[6:].lower()))
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[int(str(value))] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(str(value))])
        elif name.startswith("TUPLE"):
            values = taken(int(name[5:]) if name[5:] else None)
            stack.append(_Value("tuple"))
            stack[-1].take(values)
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            values = taken({"APPEND": 1, "SETITEM": 2}.get(name))
            named = name.startswith("APPEND") or all(key.kind in ("str", "int") for key in values[::2])
            if not named or stack[-1].kind != ("list" if name.startswith("APPEND") else "dict"):
                raise NotPlainError("its dictionaries have other keys than words and numbers")
            stack[-1].take(values)
        elif name == "BUILD":
            # The attributes of a dictionary, or the flags of a Parameter before PyTorch 1.0.
            (state,) = taken(1)
            kinds = {one.kind for one in state.inside}
            flags = state.kind == "tuple" and kinds <= {"other", "dict", "tensor"}
            if not (stack[-1].kind == state.kind == "dict" or (stack[-1].kind == "tensor" and flags)):
                raise NotPlainError("its values have attributes")
            stack[-1].take([state])
        elif name == "BINPERSID":
            (found,) = taken(1)
            key, many, size = _numbers(found)
            if asked.setdefault(key, size) != size:
                raise ValueError(f"its numbers {key} are of two sizes")
            stack.append(_Value("storage", many, size=found.size))
        elif name in ("REDUCE", "NEWOBJ"):
            made, arguments = taken(2)
            stack.append(_Value(_made(made.kind, arguments)))
            stack[-1].take([arguments])
        elif name not in ("PROTO", "STOP"):
            raise NotPlainError(f"it asks for {name}")
    if len(stack) != 1 or marks:
        raise ValueError("its pickle is damaged")
    return stack[0], asked


def _numbers(named: _Value) -> tuple[str, int, int]:
    """Return the key of a tensor's numbers, how many they are, and their bytes."""
    matched = NUMBERS.fullmatch(" ".join(one.kind for one in named.inside))
    key, many = (str(named.inside[2].known), named.inside[4].known) if matched else ("", 0)
    each = BYTES.get(matched[1]) if matched else None
    if not re.fullmatch(r"[0-9]+", key) or not isinstance(many, int) or many < 0 or each is None:
        raise NotPlainError("its tensors have no numbers of their own")
    return key, many, many * each


def _made(name: str, arguments: _Value) -> str:
    """Return what kind of value a function makes, if it is one of those that a state dict needs."""
    inside = arguments.inside
    kinds = [one.kind for one in inside]
    if arguments.kind == "tuple":
        plain = all(kind in PLAIN or KIND.fullmatch(kind) for kind in kinds[1:])
        if name == "collections OrderedDict" and (not kinds or (kinds == ["list"] and _pairs(inside[0]))):
            return "dict"
        if name == "collections Counter" and kinds == ["dict"]:
            return "dict"
        if name == "torch Size" and kinds == ["tuple"]:
            return "tuple"
        if name == "torch device" and kinds and set(kinds) <= {"str", "int"}:
            return "other"
        if name.startswith("torch._utils _rebuild_tensor") and plain and _within(inside):
            return "tensor"
        if name == "torch._utils _rebuild_parameter" and kinds[:1] == ["tensor"] and plain:
            return "tensor"
        if name == "torch.nn.parameter Parameter" and kinds[:1] in ([], ["tensor"]) and plain:
            return "tensor"
    raise NotPlainError(f"it asks for {name}"[:100])


def _pairs(values: _Value) -> bool:
    """Whether a list has pairs of a key and a value alone, as Python 2 wrote an OrderedDict."""
    return all(
        one.kind == "list" and len(one.inside) == 2 and one.inside[0].kind in ("str", "int")
        for one in values.inside
    )


def _within(arguments: list[_Value]) -> bool:
    """Whether all places of a tensor are among the numbers it asks for: PyTorch would make more of them."""
    if [one.kind for one in arguments[:4]] != ["storage", "int", "tuple", "tuple"]:
        return False
    storage, offset, size, stride = arguments[:4]
    ints = [[one.known for one in part.inside if one.kind == "int"] for part in (size, stride)]
    sizes, steps = ([int(value) for value in part if int(value) >= 0] for part in ints)
    if len(size.inside) != len(sizes) or len(stride.inside) != len(steps) or len(sizes) != len(steps):
        return False
    last = int(offset.known) + sum((many - 1) * step for many, step in zip(sizes, steps, strict=True))
    return 0 in sizes or 0 <= int(offset.known) <= last < int(storage.known)


def _plain(value: Any, most: int) -> Any:
    """Return dictionaries without attributes, which might hide methods; no tensor larger than the file."""
    if isinstance(value, dict):
        return {key: _plain(one, most) for key, one in dict.items(value)}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(one, most) for one in value)
    if isinstance(value, torch.Tensor) and value.layout is torch.strided and value.nbytes > most:
        raise ValueError("a tensor in it is larger than the file")
    return value


def damaged(path: str | Path, error: Exception, *, what: str) -> str:
    """Say in one line that a file is not ``what`` it should be, with the beginning of the reader's own error.

    Example:
        >>> damaged("a.pt", EOFError(), what="a checkpoint")
        'a.pt is damaged or not a checkpoint: EOFError'
    """
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"{path} is damaged or not {what}: {reason[:120]}"
