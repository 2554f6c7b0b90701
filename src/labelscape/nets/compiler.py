"""torch's compiler, which takes over a second to import, imported only where something is compiled."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


@contextmanager
def compiler_later() -> Iterator[None]:
    """While the block runs, what only wants to be left uncompiled does not import torch's compiler: functions
    of timm, and those of torch that find shapes on the "meta" device. Nor does torchvision, which takes a
    function from it to call later. Whatever else is asked of the compiler imports it, as ever.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    compiler, utils = Later("torch._dynamo"), Later("torch._dynamo.utils")
    # With the path of the package: other modules of it are imported as ever.
    path = [str(Path(torch.__file__).with_name("_dynamo"))]
    compiler.__dict__.update(__path__=path, utils=utils, disable=_uncompiled)
    utils.__dict__.update(is_compile_supported=_is_compile_supported)
    stand_ins = {module.__name__: module for module in (compiler, utils)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        forget(stand_ins)
        _attach_modules()


class Later(ModuleType):
    """In the place of a module, until something is asked of it that it does not have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for these of any module, and does without
            raise AttributeError(f"{self.__name__} has no {name}")
        forget({key: module for key, module in sys.modules.items() if isinstance(module, Later)})
        return getattr(importlib.import_module(self.__name__), name)


def forget(stand_ins: dict[str, ModuleType]) -> None:
    for name, module in stand_ins.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


def _attach_modules() -> None:
    """Give the compiler's package those of its modules that a stand-in was asked for."""
    found = {key.rpartition(".")[2]: module for key, module in sys.modules.items() if _is_part(key)}
    if found:
        package = vars(importlib.import_module("torch._dynamo"))
        for name, module in found.items():
            package.setdefault(name, module)


def _is_part(key: str) -> bool:
    return key.rpartition(".")[0] == "torch._dynamo"


def _is_compile_supported(device_type: str) -> bool:
    return importlib.import_module("torch._dynamo.utils").is_compile_supported(device_type)


def _uncompiled(function: Callable | None = None, *args: Any, **options: Any) -> Any:
    """`torch._dynamo.disable`, which only a compiler that is there has to be told."""
    if function is None:
        return lambda decorated: _uncompiled(decorated, *args, **options)

    @functools.wraps(function)
    def run(*values: Any, **named: Any) -> Any:
        compiler = sys.modules.get("torch._dynamo")
        if compiler is None or isinstance(compiler, Later):
            return function(*values, **named)
        return compiler.disable(function, *args, **options)(*values, **named)

    run._torchdynamo_disable = True  # as the compiler marks what it is to leave
    return run
