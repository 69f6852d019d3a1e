"""A run <-> the text of a golden, format 1: JSON only, and the same run gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.encoding import (
    decode_ranges,
    encode_ranges,
    from_base64,
    read_noise,
    shortest,
    to_base64,
)
from pytest_nnsight.golden.storage import LARGEST_FILE
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

T = TypeVar("T", int, str)
FORMAT = 1
KINDS = ("trace", "generate", "scan", "tensors")
_STATISTICS = {"min": "minimum", "max": "maximum", "mean": "mean", "std": "std"}


def encode(run: Run) -> str:
    """Write a run as the text of a golden, one line per call."""
    model, prompt, generated = run.model, run.prompt, run.generated
    head = {
        "format": FORMAT,
        "kind": run.kind,
        "model": {
            "spec": model.spec,
            "revision": model.revision,
            "class": model.model_class,
            **_fields(model, "parameters", "weights", "config", "modules", "generation"),
        },
        "environment": _fields(
            run.environment,
            *("versions", "device", "dtype", "attention", "threads", "cpu", "kernels"),
        ),
        "calibration": run.calibration,
        "input": {
            "text": prompt.text,
            "batch": prompt.is_batch,
            "token_ids": prompt.token_ids,
            "pieces": prompt.pieces,
            "tensors": {name: encode_ranges(rows) for name, rows in sorted(prompt.tensors.items())},
            **(_fields(prompt, "digests") if prompt.digests else {}),
            **_fields(prompt, "generation", "intervention", "intervention_code"),
        },
        "output": generated
        and {
            **_fields(generated, "token_ids", "text", "pieces"),
            "margins": [to_base64(margins) for margins in generated.margins],
        },
    }
    lines = [f"{json.dumps(key)}: {_json(value)}," for key, value in head.items()]
    locations: dict[int, str] = {}
    calls = [_json(_call_to_json(call, run.environment.dtype, locations)) for call in run.calls]
    body = ",\n".join(calls)
    return "{\n" + "\n".join(lines) + '\n"calls": [\n' + body + "\n]\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _fields(record: Any, *names: str) -> dict[str, Any]:
    return {name: _sorted(getattr(record, name)) for name in names}


def _sorted(value: Any) -> Any:
    """Sort the keys of nested mappings, so that the same run gives the same bytes."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def _call_to_json(call: Call, dtype: str, locations: dict[int, str]) -> dict[str, Any]:
    """Write a call; leave out the number of a first visit, and ``dtype``, which is the model's."""
    line: dict[str, Any] = {"path": call.path}
    if call.visit:
        line["visit"] = call.visit
    line["class"] = call.module_class
    if call.inputs is not None:
        line["in"] = call.inputs
    line["out"] = call.output
    line["tensors"] = [_leaf_to_json(call, leaf, dtype, locations) for leaf in call.leaves]
    return line


def _leaf_to_json(call: Call, leaf: Leaf, dtype: str, locations: dict[int, str]) -> dict[str, Any]:
    """Write a tensor; one that is already in the file is written as its earlier location."""
    summary = leaf.summary
    if id(summary) in locations:
        return {"at": leaf.at, "same": locations[id(summary)]}
    locations[id(summary)] = f"{call.path}#{call.visit} {leaf.at}"
    line: dict[str, Any] = {"at": leaf.at, "shape": summary.shape}
    if summary.dtype != dtype:
        line["dtype"] = summary.dtype
    for name, attribute in _STATISTICS.items():
        value = getattr(summary, attribute)
        if value is not None:
            line[name] = shortest(value)
    for name in ("nan", "inf"):
        if getattr(summary, name):
            line[name] = getattr(summary, name)
    if summary.norms:
        line["norms"] = to_base64(summary.norms)
        line["sketch"] = to_base64(summary.sketch)
    if summary.digest:
        line["digest"] = summary.digest
    if summary.noise:
        line["noise"] = float(f"{summary.noise:.2g}")
    return line


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
        raise _broken(name, "is not whole JSON (truncated, or a merge conflict?)") from error
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
        raise _broken(name, f"is damaged ({reason[:120]})") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _broken(name: str, what: str) -> GoldenError:
    return GoldenError(f"{name} {what}; restore it, or rewrite it with --snapshot-update")


def _read_run(document: Mapping[str, Any]) -> Run:
    if document["kind"] not in KINDS:
        raise ValueError(f"kind {document['kind']!r} is unknown")
    environment, summaries = _read_environment(document["environment"]), dict[str, Summary]()
    return Run(
        kind=document["kind"],
        model=_read_model(document["model"]),
        environment=environment,
        prompt=_read_prompt(document["input"]),
        generated=_read_generated(document["output"]),
        calls=tuple(_read_call(line, environment.dtype, summaries) for line in document["calls"]),
        calibration=tuple(str(name) for name in document["calibration"]),
    )


def _read_model(model: Mapping[str, Any]) -> ModelRecord:
    return ModelRecord(
        spec=str(model["spec"]),
        model_class=str(model["class"]),
        config=dict(model["config"]),
        revision=_optional_text(model["revision"]),
        weights=_optional_text(model["weights"]),
        parameters=int(model["parameters"]),
        modules={
            str(name): {str(text): int(count) for text, count in counts.items()}
            for name, counts in model["modules"].items()
        },
        generation=dict(model["generation"]),
    )


def _read_environment(environment: Mapping[str, Any]) -> Environment:
    names = ("device", "dtype", "attention", "cpu", "kernels")
    texts = {name: str(environment[name]) for name in names}
    versions = _text_map(environment["versions"])
    return Environment(versions, threads=int(environment["threads"]), **texts)


def _read_prompt(prompt: Mapping[str, Any]) -> Prompt:
    return Prompt(
        text=prompt["text"],
        token_ids=_rows(prompt["token_ids"], int),
        pieces=_rows(prompt["pieces"], str),
        tensors={str(name): decode_ranges(rows) for name, rows in prompt["tensors"].items()},
        digests=_text_map(prompt.get("digests", {})),
        is_batch=bool(prompt["batch"]),
        generation=dict(prompt["generation"]),
        intervention=_optional_text(prompt["intervention"]),
        intervention_code=str(prompt["intervention_code"]),
    )


def _read_generated(output: Mapping[str, Any] | None) -> Generated | None:
    if output is None:
        return None
    ids = _rows(output["token_ids"], int)
    texts, margins = output["text"], output["margins"]
    if len(texts) != len(ids) or len(margins) not in (0, len(ids)):
        raise ValueError("texts, margins and token ids differ in number")
    sizes = [4 * len(row) for row in ids]
    return Generated(
        token_ids=ids,
        text=tuple(str(text) for text in texts),
        margins=tuple(from_base64(*pair) for pair in zip(margins, sizes, strict=False)),
        pieces=_rows(output["pieces"], str),
    )


def _optional_text(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise ValueError(f"{value!r:.40} should be text")
    return value


def _text_map(value: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()}


def _rows(value: Any, kind: Callable[[Any], T]) -> tuple[tuple[T, ...], ...]:
    return tuple(tuple(kind(item) for item in row) for row in value)


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
    tokens = token_count(shape)
    norms = from_base64(tensor.get("norms", ""), 2 * tokens)
    sketch = from_base64(tensor.get("sketch", ""), sketch_size(tokens * numbers_per_token(tokens)))
    if bool(norms) != bool(sketch):
        raise ValueError("a tensor has norms and a sketch, or neither")
    return Summary(
        shape=shape,
        dtype=str(tensor.get("dtype", dtype)),
        nan=int(tensor.get("nan", 0)),
        inf=int(tensor.get("inf", 0)),
        norms=norms,
        sketch=sketch,
        digest=str(tensor.get("digest", "")),
        noise=read_noise(tensor.get("noise", 0.0)),
        **{
            attribute: float(tensor[name])
            for name, attribute in _STATISTICS.items()
            if name in tensor
        },
    )
