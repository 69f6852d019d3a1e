"""The border to nnsight: the only module that knows its versions.

Known are 0.5.15 to 0.8. What differs between them:

- loading: 0.8 opens ``TransformersModel(path, task=...)``, before it was ``LanguageModel(path)``,
  which leaves the padding of a tokenizer that it is given alone;
- inputs: 0.5 takes tensors as one positional dict, 0.6 and later as keywords too;
- modules: before 0.8 a ``generator`` of nnsight's own hangs in the torch model;
- the cache: 0.8 hands a value over in ``Cache.observe_selected``, before it was ``Cache.add``;
  0.7 leaves the cache's hooks on the model;
- source: 0.8 numbers assignments among the calls of a forward, and lists its operations anew;
- iteration: 0.5 opens ``with tracer.iter[...]``, since 0.6 it is a loop;
- forwards: 0.8 sets one for ``.source``, of a class of its own; before, every module had one, a
  plain function, and 0.5 sets another for ``.source``;
- edits: 0.8 keeps them in ``model._edits``, before it was ``model._default_mediators``.

Everything here is ``Any``: nnsight has no types of its own.
"""

from pytest_nnsight.nnsight_api.invokes import Intervention, Invoke, Steps
from pytest_nnsight.nnsight_api.leftovers import (
    edits,
    is_own_forward,
    is_own_hook,
    remove_cache_hooks,
    set_edits,
)
from pytest_nnsight.nnsight_api.mistakes import explain
from pytest_nnsight.nnsight_api.model_class import is_causal, load, wrap
from pytest_nnsight.nnsight_api.ndif import (
    RemoteJob,
    readable_failures,
    run_remote,
)
from pytest_nnsight.nnsight_api.operations import STEP_INTO, Operation, operation_names
from pytest_nnsight.nnsight_api.runs import Receive, Watch, run_generate, run_trace
from pytest_nnsight.nnsight_api.scan import is_skeleton, run_scan, wrap_skeleton
from pytest_nnsight.nnsight_api.tree import is_copy, named_modules, torch_module
from pytest_nnsight.nnsight_api.version import version

__all__ = [
    "STEP_INTO",
    "Intervention",
    "Invoke",
    "Operation",
    "Receive",
    "RemoteJob",
    "Steps",
    "Watch",
    "edits",
    "explain",
    "is_causal",
    "is_copy",
    "is_own_forward",
    "is_own_hook",
    "is_skeleton",
    "load",
    "named_modules",
    "operation_names",
    "readable_failures",
    "remove_cache_hooks",
    "run_generate",
    "run_remote",
    "run_scan",
    "run_trace",
    "set_edits",
    "torch_module",
    "version",
    "wrap",
    "wrap_skeleton",
]
