"""Run one forward pass or one generation on NDIF, or rehearse it here with ``remote="local"``."""

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
from pytest_nnsight.nnsight_api.module_tree import compute_device, torch_module
from pytest_nnsight.nnsight_api.version import import_nnsight

_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """The body of a remote trace: ``begin`` and ``end`` run on the server, with ``plan``.

    All three are sent to the server, with those functions of ``modules`` that they use.
    """

    begin: Callable[[Any, Any, dict[str, Any]], dict[str, Any]]
    end: Callable[[Any, dict[str, Any], Any], dict[str, Any]]
    plan: dict[str, Any]
    modules: Sequence[str] = ()


def run_remote(
    model: Any,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    job: RemoteJob,
    where: bool | str,
    verbose: bool,
    generates: bool,
) -> Any:
    """Run a job; return the value of its ``end``, or ``None`` where the trace stopped before it.

    ``where`` is nnsight's ``remote=``: ``True`` for the configured host, a host, or ``local``.
    nnsight reads the source of each ``with``, which therefore stands on a line of its own.
    """
    nnsight = import_nnsight()
    for module in (_PACKAGE, *job.modules):
        nnsight.register(module)
    save, begin, end, plan = nnsight.save, job.begin, job.end, job.plan
    options = {**keywords, "remote": where, "verbose": verbose}
    returned = None
    with _remote_context():
        if generates:
            with model.generate(*arguments, **options) as tracer:
                found = begin(model, tracer, plan)
                returned = save(end(model, found, tracer.result))
        else:
            with model.trace(*arguments, **options) as tracer:
                found = begin(model, tracer, plan)
                returned = save(end(model, found, tracer.result))
    return returned


@contextmanager
def _remote_context() -> Iterator[None]:
    """Turn gradients off, and restore the order of the import path afterwards.

    ``remote="local"`` removes folders of packages that are not installed, and then appends them.
    """
    path = list(sys.path)
    try:
        with torch.set_grad_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
            yield
    finally:
        sys.path[:] = path


def server_environment(model: Any) -> dict[str, str]:
    """Return what the server computes with, as far as it may be read there. Runs on the server."""
    import transformers

    module = torch_module(model)
    device = compute_device(module.parameters())
    config = getattr(module, "config", None)
    return {
        "device": device,
        "attention": str(getattr(config, "_attn_implementation", None) or "none"),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "threads": str(torch.get_num_threads()),
        "kernels": (
            f"{torch.cuda.get_device_name()} CUDA {torch.version.cuda}" if device == "cuda" else ""
        ),
    }


@contextmanager
def readable_failures(where: bool | str) -> Iterator[None]:
    """Turn each failure of a remote run into a `RemoteError` of one line.

    An error that the test's own function raises in a rehearsal stays as it is.
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
    if _is_from_pickling(error):
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


def _is_from_pickling(error: Exception) -> bool:
    """Tell whether an error comes from pickling or unpickling the trace.

    nnsight removes its own frames from a traceback, not those of the pickler.
    """
    if isinstance(error, pickle.PickleError):
        return True
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    is_missing = isinstance(error, ModuleNotFoundError) and files[-1:] == [Path(__file__)]
    return is_missing or any("cloudpickle" in file.parts for file in files)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 160)}"


def _last_line(error: Exception) -> str:
    """Return the last line of a server's error, which is a traceback as text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(Exception(lines[-1] if lines else "no message"), 200)


def _host() -> str:
    """Return the host that nnsight is configured for."""
    from nnsight.schema.config import CONFIG

    return str(CONFIG.API.HOST)
