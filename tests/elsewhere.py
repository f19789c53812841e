"""A second device where there is none: tensors that say they lie on "cuda:0", compute on the CPU, and meet no others.

    with elsewhere():
        torch.zeros(3, device=ELSEWHERE), x.to(ELSEWHERE), module.to(ELSEWHERE)     --> Far tensors
        far + near, torch.cat([far, near]), near[far], far.numpy()                  --> errors, as on a GPU
        far + near.sum(), far[near], far.copy_(near), far.cpu(), far.item()         --> as on a GPU

Holds for the thread that enters it. What C++ asks a tensor for its device is told "cpu", so no CUDA is needed.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("cuda:0")
_BETWEEN = {"copy_", "index", "index_put", "index_put_", "_index_put_impl_"}
"Operations that may take tensors of both places: copies, and choices from far tensors by near indices."
_UNREADABLE = {"numpy", "__array__", "data_ptr", "untyped_storage"}


class Far(Tensor):
    """A tensor that says it is not on the CPU."""

    near: Tensor
    device = ELSEWHERE  # pyright: ignore
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        strides = None if near.layout != torch.strided else near.stride()
        made = Tensor._make_wrapper_subclass(cls, near.shape, strides=strides, dtype=near.dtype)
        made.near = near.detach()
        return made

    def __repr__(self) -> str:
        return f"Far({self.near!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Far":
        made = Far(self.near.clone(memory_format=torch.preserve_format)).requires_grad_(self.requires_grad)
        made.__dict__ |= {name: value for name, value in self.__dict__.items() if name != "near"}
        return memo.setdefault(id(self), made)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        strangers = [value for value in given if not isinstance(value, Far) and value.dim()]
        is_allowed = name in _BETWEEN and (name == "copy_" or isinstance(given[0], Far))
        if strangers and not is_allowed:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found two, cpu and cuda:0")
        found = func(*tree_map(_near, args), **tree_map(_near, kwargs))
        if not func._schema.returns:
            return None
        if isinstance(given[0], Far) or name != "copy_":
            found = tree_map(_far, found)
        if found_sparse(found) or any(found_sparse(value) for value in given):
            return found
        return return_and_correct_aliasing(func, args, kwargs, found)


class _Places(TorchFunctionMode):
    """Moves tensors between the two places and makes them in either."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], Far) else None
        if own is not None and name in _UNREADABLE:
            raise TypeError(f"{name} of a tensor on cuda:0; copy it to the CPU first")
        if own is not None and name == "detach" and torch.is_inference_mode_enabled():
            return Far(own.near)  # torch's own wants a version of what inference does not version
        if own is not None and name == "tolist":
            return own.near.tolist()
        if name == "cpu":
            return args[0] if own is None else own.near.clone(memory_format=torch.preserve_format)
        if name == "to":
            return _moved(*args, **kwargs)
        if kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            is_far = device.type == ELSEWHERE.type
            made = func(*tree_map(_near, args), device="cpu" if is_far else device, **tree_map(_near, kwargs))
            return Far(made).requires_grad_(made.requires_grad) if is_far else made
        return func(*args, **kwargs)


def _moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`tensor.to(...)`."""
    copy, device = kwargs.pop("copy", False), kwargs.pop("device", None)
    kwargs.pop("non_blocking", None)
    dtype = kwargs.pop("dtype", None)
    assert not kwargs, f"not needed so far: {kwargs}"
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, Tensor):
            dtype, device = value.dtype, value.device
        elif not isinstance(value, bool) and value is not None:
            device = value
    made = tensor if dtype is None else Tensor.type(tensor, dtype)
    is_far = isinstance(made, Far) if device is None else torch.device(device).type == ELSEWHERE.type
    if is_far == isinstance(made, Far):
        return made.clone(memory_format=torch.preserve_format) if copy else made
    return Far(made.detach().clone(memory_format=torch.preserve_format)) if is_far else made.near.clone()


@contextmanager
def elsewhere() -> Generator[None]:
    """A second device, for the block."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # else .to fills the near parameter with far data
    try:
        with _Places(), patch("torch.cuda.set_device"):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


def _far(value: Any) -> Any:
    return Far(value) if isinstance(value, Tensor) and not isinstance(value, Far) else value


def found_sparse(found: Any) -> bool:
    """Whether the tensors in a result are sparse: they have no storage whose aliases could be kept in order."""
    return any(isinstance(value, Far) and value.near.layout != torch.strided for value in tree_flatten(found)[0])
