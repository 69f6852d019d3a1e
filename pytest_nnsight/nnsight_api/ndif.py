"""One forward pass or one generation where the model is: on NDIF, or here as if it were there."""

from __future__ import annotations

import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_nnsight.errors import NnsightPluginError, RemoteError, one_line
from pytest_nnsight.nnsight_api.tree import envoys, torch_module, torch_paths
from pytest_nnsight.nnsight_api.version import import_nnsight

_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """What a remote trace does: ``begin`` and ``end`` run in its body, with ``plan``.

    All three are sent there, and so is what ``modules`` hold as far as they use it.
    """

    begin: Callable[[Any, Any, dict[str, Any]], dict[str, Any]]
    end: Callable[[Any, dict[str, Any], Any], dict[str, Any]]
    plan: dict[str, Any]
    modules: Sequence[str] = ()


def run_remote(
    model: Any,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    errand: RemoteJob,
    where: bool | str,
    verbose: bool,
    generates: bool,
) -> Any:
    """Run the errand; return what it brings back, ``None`` where the trace ended before its end.

    ``where`` is as nnsight takes it: ``True`` for the host it is configured for, a host, ``local``.
    nnsight reads the source of its ``with``, which therefore stands on a line of its own.
    """
    nnsight = import_nnsight()
    for module in (_PACKAGE, *errand.modules):
        nnsight.register(module)
    save, begin, end, plan = nnsight.save, errand.begin, errand.end, errand.plan
    options = {**keywords, "remote": where, "verbose": verbose}
    brought = None
    with _as_before():
        if generates:
            with model.generate(*arguments, **options) as tracer:
                found = begin(model, tracer, plan)
                brought = save(end(model, found, tracer.result))
        else:
            with model.trace(*arguments, **options) as tracer:
                found = begin(model, tracer, plan)
                brought = save(end(model, found, tracer.result))
    return brought


@contextmanager
def _as_before() -> Iterator[None]:
    """Run without gradients, and put the import path back in its order.

    ``remote="local"`` hides what is not installed and appends it at the end.
    """
    path = list(sys.path)
    try:
        with torch.set_grad_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
            yield
    finally:
        sys.path[:] = path


def tap(
    model: Any,
    tracer: Any,
    outputs: Sequence[str],
    inputs: Sequence[str],
    receive: Callable[[str, str, Any], None],
) -> None:
    """Let ``receive`` see every value that ``tracer.cache`` would keep; see `running.begin`.

    Runs on the server: it knows nnsight 0.8 alone, and nothing of the versions here.
    """
    paths = torch_paths(model)
    for wanted, slot in ((outputs, "output"), (inputs, "inputs")):
        if not wanted:
            continue
        view = tracer.cache(
            modules=envoys(model, paths, wanted),
            device=None,
            detach=False,
            include_output=slot == "output",
            include_inputs=slot == "inputs",
        )

        def observe(selected: tuple[str, str], value: Any) -> None:
            receive(paths[selected[0]], selected[1], value)

        view._cache.observe_selected = observe


def surroundings(model: Any) -> dict[str, str]:
    """Say what the server computes with, as far as its rules let it be known.

    Runs on the server.
    """
    import transformers

    module = torch_module(model)
    parameters = list(module.parameters())
    devices = {parameter.device.type for parameter in parameters} - {"meta", "cpu"}
    floats = [str(parameter.dtype) for parameter in parameters if parameter.is_floating_point()]
    is_cuda = "cuda" in devices
    config = getattr(module, "config", None)
    return {
        "device": min(devices, default="cpu"),
        "dtype": (floats or ["none"])[0].removeprefix("torch."),
        "attention": str(getattr(config, "_attn_implementation", None) or "none"),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "threads": str(torch.get_num_threads()),
        "kernels": f"{torch.cuda.get_device_name()} CUDA {torch.version.cuda}" if is_cuda else "",
    }


@contextmanager
def readable_failures(where: bool | str) -> Iterator[None]:
    """Turn whatever goes wrong on the way to the server and back into one `RemoteError`.

    What the test's own function raises in a rehearsal stays as it is.
    """
    try:
        yield
    except NnsightPluginError:
        raise
    except Exception as error:
        reason = _reason(error, where)
        if reason is None:
            raise
        raise RemoteError(f"{reason}; no golden was written") from error


def _reason(error: Exception, where: bool | str) -> str | None:
    if _is_of_packing(error):
        return (
            f"the trace cannot be sent ({_brief(error)}): an intervening function may use torch, "
            "numpy, plain values, and functions of its own file"
        )
    if where == "local":
        return None
    host = where if isinstance(where, str) else _host()
    if type(error).__name__ == "RemoteError":
        if "Failed to send request" not in str(error):
            return f"the run failed on {host} ({_last_line(error)})"
        if "onnect" not in str(error):
            return (
                f"{host} refused the request ({_brief(error)}); set the key with NDIF_API_KEY, or "
                "in nnsight's own configuration"
            )
    if "huggingface" in type(error).__module__:
        return f"the model hub, which names the model to NDIF, did not answer ({_brief(error)})"
    return (
        f"the connection to {host} failed ({_brief(error)}); check the network, and the host in "
        "NDIF_HOST or nnsight's own configuration, then run again"
    )


def _is_of_packing(error: Exception) -> bool:
    """Tell whether an error came from writing or reading what is sent.

    nnsight takes its own frames out of a traceback, not those of the pickler.
    """
    if isinstance(error, pickle.PickleError):
        return True
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    is_missing = isinstance(error, ModuleNotFoundError) and files[-1:] == [Path(__file__)]
    return is_missing or any("cloudpickle" in file.parts for file in files)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 160)}"


def _last_line(error: Exception) -> str:
    """Return the last line of what a server tells, which is a traceback as text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(Exception(lines[-1] if lines else "without a word"), 200)


def _host() -> str:
    """Return the host that nnsight is configured for."""
    from nnsight.schema.config import CONFIG

    return str(CONFIG.API.HOST)
