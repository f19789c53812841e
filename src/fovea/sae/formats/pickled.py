"""Tensors out of a torch .pt file without unpickling it: nothing in the file is executed.

A .pt file is a zip of raw storages and a pickle that says how they make tensors. The pickle is a program; here it is
read as data. Its instructions are listed (pickletools) and followed on a stack that knows dicts, lists, tuples, texts,
numbers and tensors. The few names that torch writes for a state dict are known; any other name, which to an unpickler
would be something to import and call, is refused.

    .pt --zip entries checked--> data.pkl --instructions--> {name: tensor | number | text | dict}

Source: the file format of torch.save (torch/serialization.py, torch/_utils.py); `torch.load(weights_only=True)` has the
same aim, but believes the sizes that a file claims.
"""

import math
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fovea.errors import SAEError
from fovea.sae.formats.tensors import DAMAGE, checked_entries

MAX_PICKLE_BYTES = 2**20
"The program of a state dict takes about 200 bytes per tensor."

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"Names of torch's storages and their types."

_BUILDERS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
_PUSHES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_WHAT_TO_DO = "convert it to safetensors where you trust it (torch.load, then safetensors.torch.save_file)"


class _Name(NamedTuple):
    """A name that an unpickler would import."""

    text: str


class _Storage(NamedTuple):
    """A block of numbers in the zip."""

    dtype: torch.dtype
    key: str
    n: int


class _Mark:
    """Where a group on the stack begins."""


def read_pickled(path: Path) -> dict[str, Any]:
    """The state dict in a .pt file: tensors (of the type they have), numbers, texts and dicts of these, by name.

    Raises:
        SAEError: not a zip of torch's, a bomb, damaged, or it names anything but tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {each.filename: each for each in checked_entries(archive, path, max_ratio=1)}
            return _Reader(path, archive, entries).state_dict()
    except zipfile.BadZipFile as error:
        raise SAEError(
            f"{path} is not a zip file as torch writes since 1.6 ({error}); older pickles are not read: {_WHAT_TO_DO}"
        ) from None
    except DAMAGE as error:
        raise SAEError(f"{path} is damaged ({str(error)[:200]}); download or write the SAE again") from None
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise SAEError(f"{path} holds a program that torch does not write ({error!r:.200}); {_WHAT_TO_DO}") from None


class _Reader:
    """Follows the instructions of one file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> None:
        self._path, self._archive, self._entries = path, archive, entries
        programs = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(programs) != 1:
            raise SAEError(f"{path} holds {len(programs)} data.pkl, but a state dict has one; {_WHAT_TO_DO}")
        self._root = programs[0].removesuffix("data.pkl")
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._read: dict[str, Tensor] = {}
        self._n_bytes_left = 2 * path.stat().st_size

    def state_dict(self) -> dict[str, Any]:
        """What the instructions leave on the stack."""
        info = self._entries[f"{self._root}data.pkl"]
        if info.file_size > MAX_PICKLE_BYTES:
            raise SAEError(
                f"{self._path}: data.pkl has {info.file_size} bytes, at most {MAX_PICKLE_BYTES} are plausible"
            )
        order = self._entries.get(f"{self._root}byteorder")
        if order is not None and (order.file_size > 16 or self._archive.read(order) != b"little"):
            raise SAEError(f"{self._path} is not little-endian; save it on a usual machine")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in names, which Python will refuse one day; no name has any
            for opcode, argument, _ in pickletools.genops(self._archive.read(info)):
                self._follow(opcode.name, argument)
        (result,) = self._stack
        return self._checked(result)

    def _checked(self, result: Any) -> dict[str, Any]:
        if not isinstance(result, dict) or not all(isinstance(key, str) for key in result):
            raise SAEError(f"{self._path} holds a {type(result).__name__}, not a state dict; {_WHAT_TO_DO}")
        for key, value in result.items():
            for each in value.values() if isinstance(value, dict) else (value,):
                if not isinstance(each, Tensor | int | float | str | None):
                    raise SAEError(
                        f"{self._path}: entry {key[:100]!r} is a {type(each).__name__.strip('_')}, which a state dict "
                        "of "
                        f"an SAE does not hold; {_WHAT_TO_DO}"
                    )
        return result

    def _follow(self, name: str, argument: Any) -> None:
        """One instruction."""
        stack = self._stack
        if name in _PUSHES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(self._last(_TUPLES[name]))]
        elif name == "GLOBAL":
            stack.append(self._known(argument))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        else:
            self._built(name)

    def _built(self, name: str) -> None:
        """One instruction that makes or fills a container or a tensor."""
        known: dict[str, Callable[[], None]] = {
            "PROTO": lambda: None,
            "FRAME": lambda: None,
            "STOP": lambda: None,
            "MARK": lambda: self._stack.append(_Mark()),
            "EMPTY_DICT": lambda: self._stack.append({}),
            "EMPTY_LIST": lambda: self._stack.append([]),
            "EMPTY_TUPLE": lambda: self._stack.append(()),
            "TUPLE": lambda: self._stack.append(tuple(self._group())),
            "SETITEM": lambda: self._fill([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda: self._fill(self._group()),
            "APPEND": lambda: self._extend([self._stack.pop()]),
            "APPENDS": lambda: self._extend(self._group()),
            "BINPERSID": lambda: self._stack.append(self._storage(self._stack.pop())),
            "REDUCE": self._reduce,
            "BUILD": self._drop_attributes,
        }
        if name not in known:
            raise SAEError(f"{self._path} has the pickle instruction {name}, which no state dict needs; {_WHAT_TO_DO}")
        known[name]()

    def _known(self, argument: str) -> _Name:
        module, _, name = argument.partition(" ")
        if argument in _BUILDERS or (module == "torch" and name in STORAGES):
            return _Name(argument)
        raise SAEError(
            f"{self._path} is a pickle that would run {argument.replace(' ', '.')[:100]!r} when loaded; it was not. A "
            "state dict of an SAE needs no such thing: do not load this file, and ask for safetensors"
        )

    def _last(self, n: int) -> list[Any]:
        if len(self._stack) < n:
            raise IndexError("the stack is empty")
        return self._stack[-n:]

    def _group(self) -> list[Any]:
        """What is above the last mark, taken off with the mark."""
        group: list[Any] = []
        while not isinstance(top := self._stack.pop(), _Mark):
            group.append(top)
        return group[::-1]

    def _fill(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise TypeError("items for something that is no dict")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError("values for something that is no list")
        target.extend(values)

    def _drop_attributes(self) -> None:
        """torch's state dicts carry an attribute with versions of modules, which no tensor needs."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict):
            raise TypeError("attributes for something that is no dict")

    def _storage(self, identity: Any) -> _Storage:
        kind, name, key, _, n = identity
        dtype = STORAGES[name.text.partition(" ")[2]]
        if kind != "storage" or not isinstance(key, str) or not isinstance(n, int):
            raise TypeError("a storage without key and size")
        return _Storage(dtype, key, n)

    def _reduce(self) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that has no name")
        if called.text == "torch._utils _rebuild_tensor_v2":
            self._stack.append(self._tensor(*arguments[:4]))
        elif called.text == "torch._utils _rebuild_parameter":
            if not isinstance(arguments[0], Tensor):
                raise TypeError("a parameter that is no tensor")
            self._stack.append(arguments[0])
        elif called.text == "collections OrderedDict" and not arguments:
            self._stack.append({})
        else:
            raise TypeError(f"a call of {called.text}")

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        """A tensor that lies within its storage and shows no number of it twice."""
        if not isinstance(storage, _Storage) or not isinstance(offset, int):
            raise TypeError("a tensor without a storage")
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 4:
            raise TypeError("a tensor without shape and strides")
        if not all(isinstance(each, int) and each >= 0 for each in (offset, *size, *stride)):
            raise TypeError("a tensor with a negative size")
        flat = self._numbers(storage)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > len(flat) or (math.prod(size) and last >= len(flat)):
            raise SAEError(f"{self._path}: a tensor of shape {size} claims more than its {len(flat)} numbers")
        self._n_bytes_left -= math.prod(size) * flat.dtype.itemsize
        if self._n_bytes_left < 0:  # many tensors over one storage
            raise SAEError(f"{self._path}: its tensors together are more than twice the file; {_WHAT_TO_DO}")
        return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)

    def _numbers(self, storage: _Storage) -> Tensor:
        if storage.key not in self._read:
            info = self._entries[f"{self._root}data/{storage.key}"]
            if info.file_size != storage.n * storage.dtype.itemsize:
                raise SAEError(
                    f"{self._path}: a storage claims {storage.n} numbers of {storage.dtype.itemsize} bytes, but has "
                    f"{info.file_size} bytes; download or write the SAE again"
                )
            data = bytearray(self._archive.read(info))
            empty = torch.empty(0, dtype=storage.dtype)
            self._read[storage.key] = torch.frombuffer(data, dtype=storage.dtype) if data else empty
        flat = self._read[storage.key]
        if flat.dtype != storage.dtype:
            raise SAEError(f"{self._path}: a storage is read as two types; download or write the SAE again")
        return flat
