"""The reader of what `torch.save` wrote: what state dicts hold comes back, and nothing else is let pass."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from resnet_tutorial import untrusted
from resnet_tutorial.untrusted import NotPlainError, damaged, load_saved, read_sized, refuse_swollen

FOUR = torch.arange(4.0)
NUMBERS = torch.storage.TypedStorage(wrap_storage=FOUR.untyped_storage(), dtype=torch.float32, _internal=True)
TENSOR = "torch._utils _rebuild_tensor_v2"


def refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """What is told instead of a result."""
    with pytest.raises(ValueError) as refused:
        function(*arguments, **options)
    return str(refused.value)


class Asks:
    """Has the reader of the file call a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.asked = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.asked


def tensor(offset: Any = 0, size: Any = (4,), stride: Any = (1,), numbers: Any = NUMBERS) -> Asks:
    """Part of four numbers."""
    return Asks(_rebuild_tensor_v2, numbers, offset, size, stride, False, OrderedDict())


def pairs(*values: Any) -> Asks:
    """A dictionary as Python 2 wrote it."""
    return Asks(OrderedDict, list(values))


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
KINDS += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
MOST = untrusted.LARGEST_TREE - 4  # letters: a dictionary, a name of one letter and a word have four more
KEPT: list[tuple[Any, Any]] = [
    *[
        (same, same)
        for same in (
            {"a": 1, "b": -5, "c": 2**59, "d": -(2**70), 7: None, -1: (True, False, 1.5), "long": 70_000},
            {2**60 - 1: "the largest number that may be a name", -(2**60) + 1: 300},
            [1, (2, [3, ()], {}), [], {"a": {"b": [None]}}],
            [torch.Size([2, 3]), torch.Size([]), torch.device("cpu"), torch.device("cuda", 1)],
            FOUR.reshape(2, 2).t(),
            [FOUR[1:], FOUR[:0], FOUR[3], torch.zeros(0, 3), FOUR.expand(2, 4), FOUR[::3]],
            [nn.Parameter(FOUR), nn.Parameter(FOUR, requires_grad=False)],
            [torch.ones(2, 3).to(kind) for kind in KINDS],
            [torch.ones(1, 2, 2, 2).to(memory_format=torch.channels_last)],
            nested(untrusted.DEEPEST + 1),
            {"a": "x" * MOST},
            {"entry": [[k] for k in range(300)] * 2},  # more than a byte counts, and the same lists again
        )
    ],
    (OrderedDict(a=1), {"a": 1}),
    (nn.BatchNorm1d(1, affine=False).state_dict(), dict(nn.BatchNorm1d(1, affine=False).state_dict())),
    ({"counted": Counter("aba")}, {"counted": {"a": 2, "b": 1}}),
    (tensor(1, (3,)), FOUR[1:]),
    (tensor(0, (2, 2), (1, 1)), torch.tensor([[0.0, 1.0], [1.0, 2.0]])),
    (tensor(3, (), ()), FOUR[3]),
    (tensor(0, (0, 9), (9, 1)), torch.zeros(0, 9)),
    (Asks(_rebuild_parameter, tensor(), True, OrderedDict()), nn.Parameter(FOUR)),
    (Asks(nn.Parameter, tensor(), state=(False, True, OrderedDict())), nn.Parameter(FOUR, False)),
    (
        Asks(nn.Parameter, tensor(), state=(tensor(), None, OrderedDict(), False, True)),
        nn.Parameter(FOUR, False),
    ),
    (pairs(["a", 1], [2, [3]]), {"a": 1, 2: [3]}),
    (pairs(), {}),
]


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(("content", "expected"), KEPT, ids=range(len(KEPT)))
def test_what_a_state_dict_holds_comes_back(tmp_path, archive, content, expected):
    """An honest file that is refused, in either format, or comes back as something else."""
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=archive)
    found = load_saved(tmp_path / "w.pt")
    assert repr(found) == repr(expected) and type(found) is type(expected)


REFUSED: list[tuple[Any, str]] = [
    *[
        (part, f"it asks for {TENSOR}")
        for part in (
            tensor(1),
            tensor(0, (5,)),
            tensor(0, (3,), (2,)),
            tensor(-1),
            tensor(0, (-4,)),
            tensor(3, (4,), (-1,)),
            tensor(0, (2, 2), (1,)),
            tensor(0, (2,), (1, 1)),
            tensor(4, (), ()),
            tensor("0"),
            tensor(0, [4]),
            tensor(0, (4,), [1]),
            tensor(0, (4, None), (1,)),
            tensor(0, (4,), (1, None)),
            tensor(numbers="storage"),
            Asks(_rebuild_tensor_v2, NUMBERS, 0, (4,), (1,), False, FOUR),
            Asks(_rebuild_tensor_v2, NUMBERS, 0, (4,)),
        )
    ],
    *[
        (odd, "it asks for collections OrderedDict")
        for odd in (
            pairs(["a", 1, 2]),
            pairs(["a"]),
            pairs(["a"], *([k, 1] for k in range(1001))),  # a thousand at a time
            pairs(["a", 1], [(1,), 1]),
            pairs([1.5, 1]),
            pairs(("a", 1)),
            pairs("ab"),
            Asks(OrderedDict, (("a", 1),)),
            Asks(OrderedDict, [], []),
        )
    ],
    (Asks(Counter, "abc"), "it asks for collections Counter"),
    (Asks(Counter, {}, {}), "it asks for collections Counter"),
    (Asks(torch.Size, [2]), "it asks for torch Size"),
    (Asks(torch.Size, (2,), (2,)), "it asks for torch Size"),
    (Asks(torch.device), "it asks for torch device"),
    (Asks(torch.device, 1.5), "it asks for torch device"),
    (Asks(_rebuild_parameter, FOUR, True, FOUR), "it asks for torch._utils _rebuild_parameter"),
    (Asks(_rebuild_parameter, 1, True), "it asks for torch._utils _rebuild_parameter"),
    (Asks(_rebuild_parameter), "it asks for torch._utils _rebuild_parameter"),
    (Asks(nn.Parameter, 1), "it asks for torch.nn.parameter Parameter"),
    (Asks(nn.Parameter, FOUR, FOUR), "it asks for torch.nn.parameter Parameter"),
    *[
        (Asks(function, *values, state=state), "its values have attributes")
        for function, values, state in (
            (nn.Parameter, [FOUR], (["a"], True, OrderedDict())),
            (nn.Parameter, [FOUR], {"data": 1}),
            (nn.Parameter, [FOUR], [True, True]),
            (torch.Size, [(1,)], {"a": 1}),
            (OrderedDict, [], (True, True)),
        )
    ],
    *[
        ({key: 1}, "its dictionaries have other keys than words and numbers")
        for key in (2**60, -(2**60), (1,), None, 1.5, True, FOUR)
    ],
    ({"a": 1, (2,): 3}, "its dictionaries have other keys than words and numbers"),
    (Asks(print), "it asks for __builtin__ print"),
    (1j, "it asks for __builtin__ complex"),
    ({1, 2}, "it asks for __builtin__ set"),
    (b"abc", "it asks for _codecs encode"),
    (bytearray(), "it asks for __builtin__ bytearray"),
    (nested(untrusted.DEEPEST + 2), "its values are nested as those of no state dict"),
    ({"a": "x" * (MOST + 1)}, "its values are nested as those of no state dict"),
]


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(("content", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_no_state_dict_holds_is_refused(tmp_path, archive, content, words):
    """The reader of PyTorch would take gigabytes, hours or the stack for one of each kind."""
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError if words.endswith("no state dict") else NotPlainError) as refused:
        load_saved(tmp_path / "w.pt")
    assert str(refused.value) == words


def name(many: bytes = b"K\4", key: bytes = b"0", kind: bytes = b"Float", store: bytes = b"torch") -> bytes:
    """What names four numbers in a pickle: a tuple."""
    key = struct.pack("<I", len(key)) + key
    return b"(X\7\0\0\0storagec" + store + b"\n" + kind + b"Storage\nX" + key + b"X\3\0\0\0cpu" + many + b"t"


# A parameter as Python's own pickler wrote it, before PyTorch did that in a way of its own.
PARAMETER = b"ctorch.nn.parameter\nParameter\nctorch._utils\n_rebuild_tensor_v2\n("
PARAMETER += name() + b"QK\0K\4\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR\x85\x81"
DAMAGED, NAMELESS = "its pickle is damaged", "its tensors have no numbers of their own"
PICKLES = {
    b"0.": "it asks for POP",
    b"K\1K\2.": DAMAGED,
    b"(K\1.": DAMAGED,
    b".": DAMAGED,
    b"\x85.": DAMAGED,
    b"K\1(\x85.": DAMAGED,  # it would take what lies before the mark
    b"ctorch\nSize\nK\1R.": "it asks for torch Size",  # what is no tuple is no list of arguments
    b"c" + b"a" * 99 + b"\nb\n)R.": "it asks for " + "a" * 88,
    b"K\1" + name()[1:] + b".": None,  # no mark: an IndexError
    b"}K\1a.": "its dictionaries have other keys than words and numbers",
    b"]K\1K\2s.": "its dictionaries have other keys than words and numbers",
    name() + b"Q" + name(b"K\5") + b"Q\x86.": "its numbers 0 are of two sizes",
    **{
        odd + b"Q.": NAMELESS
        for odd in (
            name(b"J\xff\xff\xff\xff"),
            name(b"N"),
            name(key=b""),
            name(key=b"../0"),
            name(key="٣".encode()),
            name(kind=b"Odd"),
            name(store=b"numpy"),
            name()[:-1] + b"NNt",
            b"(K\1t",
            b"K\1",
        )
    },
    b"]q\0]q\1h\0ah\0h\1ae.": "its values are nested as those of no state dict",  # a part that changes
    name(b"K\3") + b"Q.": "its numbers 0 are not 12 bytes",
    name(b"K\2", kind=b"Float") + b"Q.": "its numbers 0 are not 8 bytes",
    name(b"K\2", kind=b"Double") + b"Q.": "",  # as it should be
    name(b"K\x10", kind=b"Untyped", store=b"torch.storage") + b"Q.": "",
    name(b"K\4N") + b"Q.": "",
    PARAMETER + b".": "",
}


@pytest.mark.parametrize(("pickled", "words"), PICKLES.items(), ids=range(len(PICKLES)))
def test_pickles_that_no_pickler_writes(tmp_path, pickled, words):
    """Written by hand, to lead the reader astray."""
    if words == "":
        assert untrusted._check_pickle(io.BytesIO(b"\x80\2" + pickled))[1] == {"0": 16}
        return
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as parts:
        parts.writestr("w/data.pkl", b"\x80\2" + pickled)
        parts.writestr("w/data/0", bytes(16))
    with pytest.raises((ValueError, IndexError)) as refused:
        load_saved(tmp_path / "w.pt")
    assert words in (None, str(refused.value))


def test_the_limits_of_a_pickle(tmp_path, monkeypatch):
    """A limit that is off by one, or compared with the wrong number."""
    content = {"a": [1, 2, 3]}
    torch.save(content, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as parts:
        pickled = parts.read("w/data.pkl")
    codes = pickled.count(b"q") + len(b"\x80}X](KKKes.")  # nothing is remembered but what BINPUT names
    monkeypatch.setattr(untrusted, "MOST_CODES", codes - 1)
    monkeypatch.setattr(untrusted, "LARGEST_PICKLE", len(pickled))
    assert load_saved(tmp_path / "w.pt") == content
    monkeypatch.setattr(untrusted, "MOST_CODES", codes - 2)
    assert refusal(load_saved, tmp_path / "w.pt") == "its pickle is longer than that of any state dict"
    monkeypatch.setattr(untrusted, "LARGEST_PICKLE", len(pickled) - 1)
    words = f"its pickle has {len(pickled)} bytes, {len(pickled) - 1} at most"
    assert refusal(load_saved, tmp_path / "w.pt") == words


def written(path: Path, *names: str, comment: bytes = b"", method: int = zipfile.ZIP_STORED) -> None:
    """An archive with parts of these names."""
    with zipfile.ZipFile(path, "w", method) as parts:
        for part in names:
            parts.writestr(part, b"\x80\2}" + b"." * 99)
        parts.comment = comment


def flipped(path: Path) -> None:
    torch.save(FOUR, path)
    content = bytearray(path.read_bytes())
    content[content.index(FOUR.numpy().tobytes())] ^= 1
    path.write_bytes(content)


def shifted(path: Path) -> None:
    """Something before the archive, which Python forgives."""
    written(path, "w/data.pkl")
    path.write_bytes(b"PK\3\4" + path.read_bytes())


ARCHIVES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: written(path, "w/data.pkl", "w/DATA.pkl"), "it has two parts of one name"),
    (
        lambda path: written(path, "w/data.pkl", "w/code.PKL"),
        "it holds a program of TorchScript, or no pickle",
    ),
    (lambda path: written(path, "w/data"), "it holds a program of TorchScript, or no pickle"),
    (lambda path: written(path, "w/data.pkl", comment=b"!"), "its directory is not where it says"),
    (
        lambda path: written(path, "w/data.pkl", method=zipfile.ZIP_DEFLATED),
        "it is compressed, which torch.save never does",
    ),
    (shifted, "its directory is not where it says"),
    (flipped, "the check sum of w/data/0 is wrong"),
    (lambda path: path.touch(), "it is empty"),
    (lambda path: path.write_bytes(b"PK\3\5"), "it does not begin as what torch.save writes"),
]


@pytest.mark.parametrize(("write", "words"), ARCHIVES, ids=range(len(ARCHIVES)))
def test_archives_that_torch_save_does_not_write(tmp_path, write, words):
    """PyTorch and Python may take one file for two archives, and PyTorch looks at no check sum."""
    write(tmp_path / "w.pt")
    assert refusal(load_saved, tmp_path / "w.pt") == words


def test_the_long_form_of_an_archive_is_read(tmp_path, monkeypatch):
    """PyTorch ends a file of more than 4 GB by a longer directory, and Python one of many parts."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    torch.save(FOUR, tmp_path / "w")
    with zipfile.ZipFile(tmp_path / "w") as short, zipfile.ZipFile(tmp_path / "w.pt", "w") as long:
        for part in short.namelist():
            long.writestr(part, short.read(part))
    content = (tmp_path / "w.pt").read_bytes()
    assert content[-42:-38] == b"PK\6\7" and torch.equal(load_saved(tmp_path / "w.pt"), FOUR)
    for place in (-98, -34, -50):  # its mark, where it is, and where it says that the directory starts
        broken = bytearray(content)
        broken[place] ^= 1
        (tmp_path / "w.pt").write_bytes(broken)
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            load_saved(tmp_path / "w.pt")


def test_the_old_format(tmp_path, monkeypatch):
    """It has no check sums, so a checkpoint is never in it; its numbers may be longer than a pickle may."""
    path = tmp_path / "w.pt"
    torch.save(FOUR, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert refusal(load_saved, path, archive=True) == "it does not begin as what torch.save writes"
    monkeypatch.setattr(untrusted, "LARGEST_PICKLE", len(content) - 8)
    assert torch.equal(load_saved(path), FOUR)
    last = content.rindex(b"q\1a.") - 1  # of the key in the list of keys
    another_key = content[:last] + bytes([content[last] ^ 1]) + content[last + 1 :]
    for broken in (another_key, content.replace(b"K\4Nt", b"K\xffNt")):
        path.write_bytes(broken)
        assert refusal(load_saved, path) == "its numbers are not those that its tensors ask for"


def test_a_tensor_is_no_larger_than_its_file(tmp_path):
    """One number at a million places: who compares them goes through them all."""
    path = tmp_path / "w.pt"
    torch.save(FOUR[:1].expand(10), path)
    size = os.stat(path).st_size
    for many in (size // 4, size // 4 + 50):
        torch.save({"a": [(FOUR[:1].expand(many),)]}, path)
        if many * 4 <= os.stat(path).st_size:
            assert torch.equal(load_saved(path)["a"][0][0], torch.zeros(many))
        else:
            assert refusal(load_saved, path) == "a tensor in it is larger than the file"


def test_sizes_that_are_just_right(tmp_path):
    """A limit that is off by one, a file of another size, and a compression that says nothing of it."""
    path = tmp_path / "a"
    path.write_bytes(bytes(5000))
    assert read_sized(path, 5000) == bytes(5000)
    assert refusal(read_sized, path, 4999) == "a has 5,000 bytes, at most 4,999 are possible"
    assert refusal(read_sized, tmp_path, 10**6) == f"{tmp_path.name} is no regular file"
    refuse_swollen(path, most=0)  # no ZIP file
    for method, most, words in (
        (zipfile.ZIP_STORED, None, None),
        (zipfile.ZIP_DEFLATED, 102, None),
        (zipfile.ZIP_DEFLATED, 101, "it says that it holds 102 bytes, of 101 at most"),
        (zipfile.ZIP_BZIP2, 10**6, "it is compressed in a way that says nothing of its size"),
    ):
        written(path, "w", method=method)
        if words is None:
            refuse_swollen(path, most=most)
        else:
            assert refusal(refuse_swollen, path, most=most) == words


def test_a_damaged_file_is_told_in_one_line():
    """The reader's own words, if it has any, and no more than fits."""
    assert damaged("a", ValueError("x" * 200 + "\nmore"), what="b") == f"a is damaged or not b: {'x' * 120}"
    assert damaged("a", ValueError("one\ntwo"), what="b") == "a is damaged or not b: one"
    assert damaged("a", KeyError(), what="b") == "a is damaged or not b: KeyError"
