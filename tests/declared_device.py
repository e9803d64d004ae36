"""Tensors that are declared to lie on a GPU and lie on the CPU, for machines that have none.

Values and gradients are real. What mixes the two places is refused as CUDA would refuse it, and what would make the
host wait for the device is counted. What it cannot show: speed, memory, CUDA's own kernels and their rounding.
"""

import collections
import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from nic_ray.model import packed

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
GPU_BYTES = 80 * 2**30
"""Of memory that the declared GPU has, all of it free."""

_HOST_ONLY = {"numpy", "__array__"}
_WAITING = {"item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "__index__"}
_MAY_MIX = {"copy_", "__set__", "_has_compatible_shallow_copy_type", "is_same"}
_IN_PLACE = {"copy_", "__setitem__"}

_on_gpu: Any = WeakTensorKeyDictionary()


def place(tensor: Tensor) -> torch.device:
    """Where a tensor is declared to lie."""
    return CUDA if tensor in _on_gpu else tensor.device


@contextlib.contextmanager
def declared() -> Iterator["Declared"]:
    """Within this context a GPU is there, and "cuda" declares tensors to lie on it.

    Yields:
        a mode with `waits`, how often the host would have waited, by reason and line.
    """
    autocast = torch.autocast
    make_subclass = Tensor._make_subclass
    random_states: list[Tensor] = []

    def made(kind: type, data: Tensor, *rest: Any, **named: Any) -> Tensor:
        result: Tensor = make_subclass(kind, data, *rest, **named)  # a parameter; no mode is told of it
        _declare(result, place(data))
        return result

    group = clip_grad._group_tensors_by_device_and_dtype

    def grouped(lists: Any, *rest: Any) -> Any:
        # done below the reach of any mode; here tensors are clipped that all lie in one place
        return {(place(lists[0][0]), kind): own for (_, kind), own in group(lists, *rest).items()}

    def text_by_text(query: Tensor, key: Tensor, value: Tensor, texts: packed.Packed) -> Tensor:
        if {query.dtype, key.dtype, value.dtype} != {torch.bfloat16}:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        return packed.text_by_text(query, key, value, texts)

    def random_state(*_: Any) -> Tensor:
        # 16 bytes as CUDA's, which the host's generator refuses, and the other way round
        random_states.append(torch.get_rng_state())
        return torch.tensor([len(random_states) - 1, 0]).view(torch.uint8)

    def set_random_state(state: Tensor, *_: Any) -> None:
        if state.numel() != 16:
            raise RuntimeError("RNG state is wrong size")
        torch.set_rng_state(random_states[int(state.view(torch.int64)[0])])

    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (torch, "autocast", lambda device_type, *rest, **named: autocast("cpu", *rest, **named)),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.backends.cuda, "is_flash_attention_available", lambda: True),
            (torch.backends.cuda, "enable_cudnn_sdp", lambda _: None),
            (packed, "_kernel", text_by_text),
            (clip_grad, "_group_tensors_by_device_and_dtype", grouped),
            (torch.cuda, "get_rng_state", random_state),
            (torch.cuda, "set_rng_state", set_random_state),
            (torch.cuda, "Event", _Event),
            (torch.cuda, "mem_get_info", lambda *_: (GPU_BYTES, GPU_BYTES)),
            (Tensor, "pin_memory", lambda self: self),
            (Tensor, "_make_subclass", staticmethod(made)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield stack.enter_context(Declared())


class _Event:
    """An event of a device that has always done what it was asked for."""

    def record(self) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing; a thread of its own may wait."""


class Declared(TorchFunctionMode):
    """Keeps track of where each tensor is declared to lie."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Do what was asked for, on the CPU, and declare what comes out to lie where it would."""
        kwargs = dict(kwargs or {})
        name, owner = getattr(func, "__name__", str(func)), getattr(func, "__self__", None)
        if name in ("_parse_to", "device"):
            return func(*args, **kwargs)
        if name == "__get__" and owner is Tensor.device:
            return place(args[0])
        if name == "__get__" and owner is Tensor.is_cuda:
            return place(args[0]) == CUDA
        if name == "__set__":
            func(*args, **kwargs)
            if owner is Tensor.data:
                _declare(args[0], place(args[1]))
            return None
        if name in ("to", "type_as", "cuda", "cpu") and isinstance(args[0], Tensor):
            return self._moved(func, name, args, kwargs)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        # a number in a tensor of no dimensions may come from the host
        places = {place(each) for each in tensors if each.ndim} or {place(each) for each in tensors}
        if CUDA in places:
            self._look_at(name, args, places)
        asked = next((found for key, value in kwargs.items() if key == "device" and (found := _device(value))), None)
        result = func(*_on_host(args), **{key: _on_host([value])[0] for key, value in kwargs.items()})
        spot = asked or (CUDA if CUDA in places else CPU)
        if name in _IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            spot = place(args[0]) if args and isinstance(args[0], Tensor) else spot
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                _declare(each, spot)
        return result

    def _moved(self, func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        own = place(args[0])
        others = [*args[1:], *kwargs.values()]
        like = [place(each) for each in others if isinstance(each, Tensor)]
        target = {"cuda": CUDA, "cpu": CPU}.get(name) or [*like, *filter(None, map(_device, others)), own][0]
        result = func(*_on_host(args), **{key: _on_host([value])[0] for key, value in kwargs.items()})
        if target == own:
            _declare(result, own)
            return result
        quick = (
            kwargs.get("non_blocking") or (name == "to" and len(args) > 2 and args[-1] is True) or args[3:4] == (True,)
        )
        self._count(f"{own.type} to {target.type}", waits=not quick)
        if result is args[0]:
            result = result.clone() if result.requires_grad else result.detach().clone()
        _declare(result, target)
        return result

    def _look_at(self, name: str, args: Sequence[Any], places: set[torch.device]) -> None:
        """Refuse what CUDA refuses, and count what waits."""
        if name in _HOST_ONLY:
            raise TypeError(f"{name}: can't convert cuda:0 device type tensor to numpy")
        if len(places) > 1 and name not in _MAY_MIX:
            if name not in ("__getitem__", "__setitem__") or place(args[0]) != CUDA:
                raise RuntimeError(f"{name}: tensors on {', '.join(sorted(map(str, places)))}")
            self._count("index moved to the device", waits=True)
        index = args[1] if name == "__getitem__" else ()
        indices = index if isinstance(index, tuple) else (index,)
        if any(isinstance(each, Tensor) and each.dtype == torch.bool for each in indices):
            self._count("index by bool", waits=True)
        if name in _WAITING or (name == "copy_" and len(places) > 1):
            self._count(name, waits=True)

    def _count(self, what: str, *, waits: bool) -> None:
        if waits:
            stack = traceback.extract_stack(limit=30)
            ours = [each for each in stack if "/torch/" not in each.filename and each.filename != __file__]
            line = f"{ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].lineno}" if ours else "torch"
            self.waits[f"{what} ({line})"] += 1


def _declare(tensor: Tensor, where: torch.device) -> None:
    if where == CUDA:
        _on_gpu[tensor] = True
    elif tensor in _on_gpu:
        del _on_gpu[tensor]


def _device(value: Any) -> torch.device | None:
    """The place that an argument names, if it names one."""
    if isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda", "meta"):
        value = torch.device(value)
    if not isinstance(value, torch.device):
        return None
    return CUDA if value.type == "cuda" else value


def _on_host(values: Sequence[Any]) -> list[Any]:
    return [CPU if _device(each) == CUDA else each for each in values]
