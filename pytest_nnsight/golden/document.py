"""A run <-> the text of a golden, format 1: JSON only, and the same run gives the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.encoding import READERS, encode_ranges, from_base64, shortest, to_base64
from pytest_nnsight.golden.storage import HOW_TO_RESTORE, LARGEST_FILE
from pytest_nnsight.run import (
    Call,
    Environment,
    Generated,
    Leaf,
    ModelRecord,
    Prompt,
    Run,
    Summary,
    numbers_per_token,
    token_count,
)
from pytest_nnsight.summary.packing import sketch_size

T = TypeVar("T")
FORMAT = 1
KINDS = ("trace", "generate", "scan", "tensors")

# The fields of each record, in the order of the file.
_MODEL = ("spec", "revision", "class", "parameters", "weights", "config", "modules", "generation")
_ENVIRONMENT = ("versions", "device", "dtype", "attention", "threads", "cpu", "kernels")
_PROMPT = (
    *("text", "batch", "token_ids", "pieces", "tensors", "digests"),
    *("generation", "intervention", "intervention_code"),
)
_OUTPUT = ("token_ids", "text", "pieces", "margins")
_STATISTICS = ("min", "max", "mean", "std")
_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=to_base64
).encode
_ATTRIBUTES = {"class": "model_class", "batch": "is_batch", "min": "minimum", "max": "maximum"}
"""The attributes of records that are not named like their field."""


def encode(run: Run) -> str:
    """Write a run as the text of a golden, one line per call."""
    prompt = _write(run.prompt, _PROMPT)
    prompt["text"] = run.prompt.text
    prompt["tensors"] = {name: encode_ranges(rows) for name, rows in prompt["tensors"].items()}
    if not prompt["digests"]:
        del prompt["digests"]
    head = {
        "format": FORMAT,
        "kind": run.kind,
        "model": _write(run.model, _MODEL),
        "environment": _write(run.environment, _ENVIRONMENT),
        "calibration": run.calibration,
        "input": prompt,
        "output": run.generated and _write(run.generated, _OUTPUT),
    }
    lines = [f"{json.dumps(key)}: {_json(value)}," for key, value in head.items()]
    locations: dict[int, str] = {}
    calls = [_json(_write_call(call, run.environment.dtype, locations)) for call in run.calls]
    body = ",\n".join(calls)
    return "{\n" + "\n".join(lines) + '\n"calls": [\n' + body + "\n]\n}\n"


def _write(record: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: _sorted(getattr(record, _ATTRIBUTES.get(name, name))) for name in names}


def _sorted(value: Any) -> Any:
    """Sort the keys of nested mappings, so that the same run gives the same bytes."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def _write_call(call: Call, dtype: str, locations: dict[int, str]) -> dict[str, Any]:
    """Write a call; leave out the number of a first visit, and ``dtype``, which is the model's."""
    line = {
        "path": call.path,
        "visit": call.visit or None,
        "class": call.module_class,
        "in": call.inputs,
        "out": call.output,
        "tensors": [_write_leaf(call, leaf, dtype, locations) for leaf in call.leaves],
    }
    return {name: value for name, value in line.items() if value is not None}


def _write_leaf(call: Call, leaf: Leaf, dtype: str, locations: dict[int, str]) -> dict[str, Any]:
    """Write a tensor; one that is already in the file is written as its earlier location."""
    summary = leaf.summary
    if id(summary) in locations:
        return {"at": leaf.at, "same": locations[id(summary)]}
    locations[id(summary)] = f"{call.path}#{call.visit} {leaf.at}"
    statistics = _write(summary, _STATISTICS)
    line = {
        "at": leaf.at,
        "shape": summary.shape,
        "dtype": None if summary.dtype == dtype else summary.dtype,
        **{n: None if value is None else shortest(value) for n, value in statistics.items()},
        "nan": summary.nan or None,
        "inf": summary.inf or None,
        "norms": summary.norms or None,
        "sketch": summary.sketch or None,
        "digest": summary.digest or None,
        "rows": summary.rows or None,
        "noise": float(f"{summary.noise:.2g}") or None,
    }
    return {name: value for name, value in line.items() if value is not None}


def decode(text: str | bytes, name: str) -> Run:
    """Read the text of a golden; check sizes against shapes before they are trusted.

    ``name`` is the file as a message should call it. Raise `GoldenError` with it if the text is not
    a whole golden of a format that this version reads.
    """
    if len(text) > LARGEST_FILE:
        raise GoldenError(f"{name} is larger than {LARGEST_FILE >> 20} MB; that is not a golden")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        what = "is not whole JSON (truncated, or a merge conflict?)"
        raise GoldenError(f"{name} {what}; {HOW_TO_RESTORE}") from error
    number = document.get("format") if isinstance(document, dict) else None
    if type(number) is not int or number < 1:
        raise GoldenError(f"{name} is not a golden of pytest-nnsight: it has no format number")
    if number > FORMAT:
        raise GoldenError(
            f"{name} has format {number}, this version reads up to {FORMAT}; upgrade pytest-nnsight"
        )
    try:
        return _read_run(document)
    except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError) as error:
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise GoldenError(f"{name} is damaged ({reason[:120]}); {HOW_TO_RESTORE}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _read_run(document: Mapping[str, Any]) -> Run:
    if document["kind"] not in KINDS:
        raise ValueError(f"kind {document['kind']!r} is unknown")
    environment = _read(Environment, _ENVIRONMENT, document["environment"])
    summaries: dict[str, Summary] = {}
    return Run(
        kind=document["kind"],
        model=_read(ModelRecord, _MODEL, document["model"]),
        environment=environment,
        prompt=_read(Prompt, _PROMPT, {"digests": {}, **document["input"]}),
        generated=_read_generated(document["output"]),
        calls=tuple(_read_call(line, environment.dtype, summaries) for line in document["calls"]),
        calibration=tuple(str(name) for name in document["calibration"]),
    )


def _read(record: Callable[..., T], names: Iterable[str], values: Mapping[str, Any]) -> T:
    """Read the fields of a record; those without a reader are text."""
    fields = {_ATTRIBUTES.get(name, name): READERS.get(name, str)(values[name]) for name in names}
    return record(**fields)


def _read_generated(output: Mapping[str, Any] | None) -> Generated | None:
    if output is None:
        return None
    generated = _read(Generated, ("token_ids", "pieces"), output)
    sizes = [4 * len(row) for row in generated.token_ids]
    texts, margins = output["text"], output["margins"]
    if len(texts) != len(sizes) or len(margins) not in (0, len(sizes)):
        raise ValueError("texts, margins and token ids differ in number")
    numbers = tuple(from_base64(*pair) for pair in zip(margins, sizes, strict=False))
    return replace(generated, text=tuple(str(text) for text in texts), margins=numbers)


def _read_call(line: Mapping[str, Any], dtype: str, summaries: dict[str, Summary]) -> Call:
    path, visit = str(line["path"]), int(line.get("visit", 0))
    leaves = []
    for tensor in line["tensors"]:
        at = str(tensor["at"])
        if "same" in tensor:
            summary = summaries[tensor["same"]]
        else:
            summary = summaries[f"{path}#{visit} {at}"] = _read_summary(tensor, dtype)
        leaves.append(Leaf(at, summary))
    return Call(path, visit, str(line["class"]), str(line["out"]), tuple(leaves), line.get("in"))


def _read_summary(tensor: Mapping[str, Any], dtype: str) -> Summary:
    shape = tuple(int(size) for size in tensor["shape"])
    if any(size < 0 for size in shape):
        raise ValueError("a shape has a negative size")
    tokens, elements = token_count(shape), math.prod(shape)
    rows = from_base64(tensor.get("rows", ""), 4 * tokens, 4 * elements)
    norms = from_base64(tensor.get("norms", ""), 2 * tokens)
    sketch = from_base64(tensor.get("sketch", ""), sketch_size(tokens * numbers_per_token(tokens)))
    if bool(norms) != bool(sketch):
        raise ValueError("a tensor has norms and a sketch, or neither")
    dtype = str(tensor.get("dtype", dtype))
    record = partial(Summary, shape, dtype, norms=norms, sketch=sketch, rows=rows)
    names = (*_STATISTICS, "nan", "inf", "digest", "noise")
    return _read(record, (name for name in names if name in tensor), tensor)
