"""Pickles that hold whole objects, read without running anything: tensors and containers are built, nothing else.

An object becomes a `Thing`, the name of its class and its state. The source code that EDM's pickles carry is dropped.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Thing:
    """What was pickled as an object. kind: the name of its class; state: its attributes."""

    kind: str = ""
    state: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = dict(state)

    def tensors(self) -> dict[str, Tensor]:
        """The state dict of a torch.nn.Module. Raises TypeError for one in which a module stands twice."""
        found: dict[str, Tensor] = {}
        left, seen = [("", self)], {id(self)}
        while left:
            prefix, module = left.pop()
            for group in ("_parameters", "_buffers"):
                there = module.state.get(group) or {}
                found |= {f"{prefix}{name}": tensor for name, tensor in there.items() if isinstance(tensor, Tensor)}
            for name, child in (module.state.get("_modules") or {}).items():
                if not isinstance(child, Thing):
                    continue
                if id(child) in seen:
                    raise TypeError(f"{prefix}{name} is there twice")  # a few lines of those would make billions
                seen.add(id(child))
                left.append((f"{prefix}{name}.", child))
        return found


def read(path: Path) -> Any:
    """What a pickle holds. Raises ValueError, with the first foreign name, for one that asks for more."""
    try:
        with path.open("rb") as file:
            return _Inert(file).load()
    except _ForeignError as error:
        raise ValueError(f"{path} asks for more than tensors, and nothing in it is run: it names {error}.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path} is damaged, or no pickle: fetch it again.") from error


class _ForeignError(Exception):
    pass


class _Inert(pickle.Unpickler):
    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__(file)
        self._known = _known()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise _ForeignError(f"{module}.{name}")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a pickle of torch.save, and not of an object")


def _known() -> dict[tuple[str, str], Callable[..., Any]]:
    """Whatever a pickle may name, made again for each: a pickle may set attributes of what it is given."""

    class Dict(dict):  # dnnlib's, whose items are attributes, too
        pass

    class Dtype:
        def __init__(self, code: str, *_: Any) -> None:
            self.code = code

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.code = state[1] + self.code  # the order of its bytes

    def container(name: str) -> type:
        class Container:
            def __new__(cls, *_: Any) -> Thing:
                return Thing(name)

        return Container

    def reconstruct(meta: dict[str, Any]) -> Thing:
        return Thing(str(meta["class_name"]), dict(meta["state"]))

    def storage(content: bytes) -> Any:
        return torch.load(io.BytesIO(content), "cpu", weights_only=True)

    def tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)

    def parameter(data: Tensor, *_: Any) -> Tensor:
        return data

    def scalar(dtype: Dtype, content: bytes) -> float | int | bool:
        if not re.fullmatch(r"[<>|=]?[biuf][1248]", dtype.code):
            raise ValueError(f"a scalar of {dtype.code}")
        return np.frombuffer(content, dtype.code)[0].item()

    modules = {("torch.nn.modules.container", kind): container(kind) for kind in ("ModuleDict", "ModuleList")}
    return modules | {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): reconstruct,
        ("dnnlib.util", "EasyDict"): Dict,
        ("torch.storage", "_load_from_bytes"): storage,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "dtype"): Dtype,
        ("numpy.core.multiarray", "scalar"): scalar,
        ("numpy._core.multiarray", "scalar"): scalar,
    }
