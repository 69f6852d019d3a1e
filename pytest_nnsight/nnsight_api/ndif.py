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
    nnsight reads the source of each ``with``, which therefore stands on a line of its own. Raise
    `RemoteError` if the run fails.
    """
    nnsight = import_nnsight()
    save, begin, end, plan = nnsight.save, job.begin, job.end, job.plan
    options = {**keywords, "remote": where, "verbose": verbose}
    open_trace = model.generate if generates else model.trace
    returned = None
    with _remote_context(where):
        for module in ("pytest_nnsight", *job.modules):
            nnsight.register(module)
        with open_trace(*arguments, **options) as tracer:
            found = begin(model, tracer, plan)
            returned = save(end(model, found, tracer.result))
    return returned


@contextmanager
def _remote_context(where: bool | str) -> Iterator[None]:
    """Turn gradients off, and turn each failure into a `RemoteError` of one line.

    An error that the test's own function raises in a rehearsal stays as it is. ``remote="local"``
    removes folders of packages that are not installed from the import path, and then appends them:
    restore their order.
    """
    path = list(sys.path)
    try:
        with torch.set_grad_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
            yield
    except NnsightPluginError:
        raise
    except Exception as error:
        reason = _reason(error, where)
        if reason is None:
            raise
        raise RemoteError(f"{reason}; no golden was written") from error
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


def _reason(error: Exception, where: bool | str) -> str | None:
    if _is_from_pickling(error):
        return (
            f"the trace cannot be sent ({_brief(error)}): an intervening function may use torch, "
            "numpy, plain values, and functions of its own file"
        )
    if where == "local":
        return None
    from nnsight.schema.config import CONFIG

    host = where if isinstance(where, str) else str(CONFIG.API.HOST)
    if type(error).__name__ == "RemoteError":
        if "Failed to send request" not in str(error):
            lines = str(error).strip().splitlines() or ["no message"]  # a traceback as text
            return f"the run failed on {host} ({one_line(lines[-1], 200)})"
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
