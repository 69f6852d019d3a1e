"""Load and run models under nnsight; the only subpackage that knows nnsight's versions.

In: paths, torch modules, prompts. Out: nnsight models, and their values while a model runs. Must
not import any other subpackage, nor pytest. Supported are 0.5.15 to 0.8, which differ in:

- loading: since 0.8 ``TransformersModel(path, task=...)``, before ``LanguageModel(path)``, which
  does not set the padding of a tokenizer that it is given;
- inputs: 0.5 takes tensors as one positional dict, 0.6 and later also as keywords;
- modules: before 0.8 nnsight adds a module ``generator`` to the torch model;
- cache: 0.8 passes a value to ``Cache.observe_selected``, earlier versions to ``Cache.add``; 0.7
  leaves the cache's hooks on the model;
- source: 0.8 numbers assignments together with the calls of a forward;
- iteration: 0.5 opens ``with tracer.iter[...]``, since 0.6 it is a loop;
- forwards: 0.8 replaces a module's ``forward`` for ``.source``, by an object of its own class.
  Before, every module has a plain function of nnsight's, and 0.5 sets another for ``.source``;
- edits: 0.8 stores them in ``model._edits``, earlier versions in ``model._default_mediators``.

nnsight has no types, so its models, tracers and envoys are ``Any`` here, and so are values of
modules, which can be of any type.
"""

from pytest_nnsight.nnsight_api.attachments import (
    edits,
    is_in_trace,
    is_nnsight_code,
    is_nnsight_forward,
    is_nnsight_hook,
    remove_cache_hooks,
    set_edits,
)
from pytest_nnsight.nnsight_api.execution import run_generate, run_scan, run_trace
from pytest_nnsight.nnsight_api.explanations import explain
from pytest_nnsight.nnsight_api.invokes import Intervention, Invoke
from pytest_nnsight.nnsight_api.module_tree import (
    compute_device,
    is_copy,
    named_modules,
    torch_module,
)
from pytest_nnsight.nnsight_api.ndif import RemoteJob, run_remote
from pytest_nnsight.nnsight_api.operations import SOURCE, Operation, operation_names
from pytest_nnsight.nnsight_api.subscription import Receive, Subscription
from pytest_nnsight.nnsight_api.version import version
from pytest_nnsight.nnsight_api.wrappers import is_causal, is_skeleton, load, wrap, wrap_skeleton
