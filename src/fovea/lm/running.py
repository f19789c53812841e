"""Running a part of a Hugging Face model, whose own forward stays in charge of masks, rotary embeddings and norms.

    capture   tokens --> layer 0 .. last tap --(private exception)--> stop: nothing after it is computed
    resume    Feed --> layers before `start` return at once --> layer `start` on what it is fed --> ... --> final norm
    tapped, tapped_mid    the whole model, with a function that replaces what flows through one place

While one of these runs, modules carry hooks or a `forward` of their own; both are taken off again in `finally`.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Forward = Callable[..., Any]


class LayerParts(NamedTuple):
    """The modules of one layer that hooks need."""

    layer: nn.Module
    attn: nn.Module
    attn_out: nn.Module
    "Module whose output is added to the stream after attention: `attn`, or the norm that follows it."
    mlp: nn.Module
    mlp_out: nn.Module
    "Module whose output is added to the stream after the mlp: `mlp`, or the norm that follows it."
    mid: nn.Module | None
    "Module whose input is resid_mid; None where attention and mlp run in parallel, so that there is no resid_mid."


class Tap(NamedTuple):
    """The input or the output of a module."""

    module: nn.Module
    side: Literal["input", "output"]


class Feed(NamedTuple):
    """What the first layer of a resumed forward is given instead of computing it."""

    start: int
    "Index of the first layer that runs; the number of layers if only the final norm does."
    resid_pre: Float[Tensor, "batch pos d_model"]
    attn_out: Float[Tensor, "batch pos d_model"] | None = None
    mlp_out: Float[Tensor, "batch pos d_model"] | None = None


class _Stop(Exception):  # noqa: N818  (control flow, not an error)
    """Leaves a forward pass. Each run catches only its own."""


def capture(base: nn.Module, tokens: Int[Tensor, "batch pos"], *, taps: Sequence[Tap]) -> list[Tensor]:
    """What flows through each tap, in the order of `taps`; the forward ends at the last one, which must come last."""
    seen: dict[int, Tensor] = {}
    stop = _Stop()

    def keep(index: int, x: Tensor) -> None:
        seen[index] = x
        if index == len(taps) - 1:
            raise stop

    with ExitStack() as stack:
        for index, tap in enumerate(taps):
            stack.enter_context(tapped(tap, lambda x, index=index: keep(index, x)))
        with _until(stop), torch.no_grad():
            base(input_ids=tokens, use_cache=False)
    assert len(seen) == len(taps), "a tapped module did not run before the last one"
    return [seen[index] for index in range(len(taps))]


def resume(base: nn.Module, feed: Feed, *, layers: Sequence[LayerParts]) -> Float[Tensor, "batch pos d_model"]:
    """Hidden states after the final norm; only the layers from `feed.start` on are computed."""
    with ExitStack() as stack:
        for parts in layers[: feed.start]:
            stack.enter_context(overridden(parts.layer, lambda *_, **__: feed.resid_pre))
        for parts in layers[feed.start : feed.start + 1]:
            stack.enter_context(overridden(parts.layer, _fed(parts.layer.forward, feed.resid_pre)))
            if feed.attn_out is not None:
                stack.enter_context(_attention_gives(parts, feed.attn_out))
            if feed.mlp_out is not None:
                stack.enter_context(_mlp_gives(parts, feed.mlp_out))
        # The embeddings only tell the model the shape, dtype and device: every layer that runs is fed.
        with torch.no_grad():
            return base(inputs_embeds=feed.resid_pre, use_cache=False, return_dict=True).last_hidden_state


@contextmanager
def tapped(tap: Tap, fn: Callable[[Tensor], Tensor | None], *, first: bool = False) -> Generator[None]:
    """Inside it, `fn` sees what flows through the tap, and what it returns, unless None, flows on instead.

    Args:
        first: Run before the hooks that are there already.
    """

    def on_input(*call: Any) -> Any:
        _, args, kwargs = call
        x = fn(_argument(args, kwargs))
        return None if x is None else _with_argument(args, kwargs, x=x)

    def on_output(*call: Any) -> Any:
        output = call[-1]
        x = fn(output[0] if isinstance(output, tuple) else output)
        return (x, *output[1:]) if x is not None and isinstance(output, tuple) else x

    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(on_input, with_kwargs=True, prepend=first)
    else:
        handle = tap.module.register_forward_hook(on_output, prepend=first)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def tapped_mid(parts: LayerParts, fn: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Inside it, `fn(resid_mid)` replaces resid_mid in a layer.

    resid_mid is a local variable of the layer, so the layer runs twice: up to resid_mid, then with zeros as its input
    and the new resid_mid as attn_out. Their sum is the new resid_mid exactly, and attention runs once.
    """
    assert parts.mid is not None
    tap = Tap(parts.mid, "input")
    forward: Forward = parts.layer.forward

    def patched(*args: Any, **kwargs: Any) -> Any:
        seen: list[Tensor] = []
        stop = _Stop()

        def keep(x: Tensor) -> None:
            seen.append(x)
            raise stop

        # Ahead of all other hooks: they must see the new resid_mid in the second run, not the old one in the first.
        with tapped(tap, keep, first=True), _until(stop):
            forward(*args, **kwargs)
        x = fn(seen[0])
        with _attention_gives(parts, x):
            return _fed(forward, torch.zeros_like(x))(*args, **kwargs)

    with overridden(parts.layer, patched):
        yield


@contextmanager
def overridden(module: nn.Module, forward: Forward) -> Generator[None]:
    """Inside it, calling the module calls `forward`; its hooks run as ever."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def _until(stop: _Stop) -> Generator[None]:
    try:
        yield
    except _Stop as raised:
        if raised is not stop:
            raise
        # Its frames hold `stop`: in a circle, activations would stay until the next garbage collection.
        raised.__traceback__ = None


@contextmanager
def _attention_gives(parts: LayerParts, x: Tensor) -> Generator[None]:
    """Inside it, attention costs nothing and adds `x` to the stream; attention modules return (x, weights)."""
    with overridden(parts.attn, lambda *_, **__: (x, None)), ExitStack() as stack:
        if parts.attn_out is not parts.attn:
            stack.enter_context(overridden(parts.attn_out, lambda *_, **__: x))
        yield


@contextmanager
def _mlp_gives(parts: LayerParts, x: Tensor) -> Generator[None]:
    """Inside it, the mlp costs nothing and adds `x` to the stream."""
    with overridden(parts.mlp, lambda *_, **__: x), overridden(parts.mlp_out, lambda *_, **__: x):
        yield


def _fed(forward: Forward, x: Tensor) -> Forward:
    def fed(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _with_argument(args, kwargs, x=x)
        return forward(*args, **kwargs)

    return fed


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among the arguments of a module."""
    return args[0] if args else kwargs["hidden_states"]


def _with_argument(args: tuple[Any, ...], kwargs: dict[str, Any], *, x: Tensor) -> tuple[Any, Any]:
    """The arguments of a module with the hidden states replaced by `x`."""
    return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})
