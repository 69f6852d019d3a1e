"""Run <-> the text of a golden, format 1. JSON only; the same run gives the same bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from pytest_nnsight.errors import GoldenError
from pytest_nnsight.run import (
    Call,
    Environment,
    Generated,
    Leaf,
    ModelRecord,
    Prompt,
    Run,
    Summary,
    token_count,
)

FORMAT = 1
KINDS = ("trace", "generate", "tensors")
LARGEST_FILE = 512 * 1024 * 1024
_SKETCH_BYTES = 61 * 4
_STATISTICS = {"min": "minimum", "max": "maximum", "mean": "mean", "std": "std", "rms": "rms"}


def encode(run: Run) -> str:
    """Write a run as the text of a golden, one call a line."""
    head = {
        "format": FORMAT,
        "kind": run.kind,
        "model": {
            "spec": run.model.spec,
            "revision": run.model.revision,
            "class": run.model.model_class,
            "parameters": run.model.parameters,
            "weights": run.model.weights,
            "config": _sorted(run.model.config),
        },
        "environment": {
            "versions": _sorted(run.environment.versions),
            "device": run.environment.device,
            "dtype": run.environment.dtype,
            "attention": run.environment.attention,
            "threads": run.environment.threads,
            "cpu": run.environment.cpu,
        },
        "input": {
            "text": run.prompt.text,
            "batch": run.prompt.is_batch,
            "token_ids": run.prompt.token_ids,
            "generation": _sorted(run.prompt.generation),
            "intervention": run.prompt.intervention,
        },
        "output": None
        if run.generated is None
        else {
            "token_ids": run.generated.token_ids,
            "text": run.generated.text,
            "margins": [_text(margins) for margins in run.generated.margins],
        },
    }
    lines = [f"{json.dumps(key)}: {_json(value)}," for key, value in head.items()]
    known: dict[int, str] = {}
    calls = [_json(_call_to_json(call, known)) for call in run.calls]
    body = ",\n".join(calls)
    return "{\n" + "\n".join(lines) + '\n"calls": [\n' + body + "\n]\n}\n"


def _json(value: Any) -> str:
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=False
    )


def _sorted(value: Any) -> Any:
    """Sort the keys of nested mappings: the same run gives the same bytes."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def _call_to_json(call: Call, known: dict[int, str]) -> dict[str, Any]:
    line: dict[str, Any] = {"path": call.path, "visit": call.visit, "class": call.module_class}
    if call.inputs is not None:
        line["in"] = call.inputs
    line["out"] = call.output
    line["tensors"] = [_leaf_to_json(call, leaf, known) for leaf in call.leaves]
    return line


def _leaf_to_json(call: Call, leaf: Leaf, known: dict[int, str]) -> dict[str, Any]:
    """Write a tensor; one that stands earlier in the file is written as where it stands."""
    summary = leaf.summary
    if id(summary) in known:
        return {"at": leaf.at, "same": known[id(summary)]}
    known[id(summary)] = f"{call.path}#{call.visit} {leaf.at}"
    line: dict[str, Any] = {"at": leaf.at, "shape": summary.shape, "dtype": summary.dtype}
    for name, attribute in _STATISTICS.items():
        value = getattr(summary, attribute)
        if value is not None:
            line[name] = _shortest(value)
    for name in ("nan", "inf"):
        if getattr(summary, name):
            line[name] = getattr(summary, name)
    if summary.norms:
        line["norms"] = _text(summary.norms)
        line["sketch"] = _text(summary.sketch)
    if summary.digest:
        line["digest"] = summary.digest
    return line


def _shortest(value: float) -> float | int:
    """Cut a number to the 7 digits that float32 holds for sure; whole ones lose their point."""
    short = float(f"{value:.7g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def decode(text: str | bytes, name: str) -> Run:
    """Read the text of a golden. Raise `GoldenError` that names the file for anything else.

    ``name`` is the file as a message should call it. Sizes are checked against shapes before they
    are trusted.
    """
    if len(text) > LARGEST_FILE:
        raise GoldenError(f"{name} is larger than {LARGEST_FILE >> 20} MB; that is not a golden")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _broken(name, "is not whole JSON (truncated, or a merge conflict?)") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise GoldenError(f"{name} is no golden of pytest-nnsight: it has no format number")
    if document["format"] > FORMAT:
        raise GoldenError(
            f"{name} has format {document['format']}, this version reads up to {FORMAT}; "
            "upgrade pytest-nnsight"
        )
    try:
        return _run(document)
    except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError) as error:
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise _broken(name, f"is damaged ({reason[:120]})") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _broken(name: str, what: str) -> GoldenError:
    return GoldenError(f"{name} {what}; restore it, or write it anew with --snapshot-update")


def _run(document: Mapping[str, Any]) -> Run:
    model, environment, prompt = document["model"], document["environment"], document["input"]
    output = document["output"]
    if document["kind"] not in KINDS:
        raise ValueError(f"kind {document['kind']!r} is unknown")
    for texts in (model["revision"], model["weights"], prompt["intervention"]):
        if not isinstance(texts, str | None):
            raise ValueError(f"{texts!r:.40} should be text")
    if output is not None and len(output["text"]) != len(output["token_ids"]):
        raise ValueError("texts and token ids differ in number")
    known: dict[str, Summary] = {}
    return Run(
        kind=document["kind"],
        model=ModelRecord(
            spec=str(model["spec"]),
            model_class=str(model["class"]),
            config=dict(model["config"]),
            revision=model["revision"],
            weights=model["weights"],
            parameters=int(model["parameters"]),
        ),
        environment=Environment(
            versions={str(k): str(v) for k, v in environment["versions"].items()},
            device=str(environment["device"]),
            dtype=str(environment["dtype"]),
            attention=str(environment["attention"]),
            threads=int(environment["threads"]),
            cpu=str(environment["cpu"]),
        ),
        prompt=Prompt(
            text=prompt["text"],
            token_ids=_rows(prompt["token_ids"]),
            is_batch=bool(prompt["batch"]),
            generation=dict(prompt["generation"]),
            intervention=prompt["intervention"],
        ),
        generated=None
        if output is None
        else Generated(
            token_ids=_rows(output["token_ids"]),
            text=tuple(str(text) for text in output["text"]),
            margins=tuple(_bytes(margins, None) for margins in output["margins"]),
        ),
        calls=tuple(_call(line, known) for line in document["calls"]),
    )


def _rows(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(token) for token in row) for row in value)


def _call(line: Mapping[str, Any], known: dict[str, Summary]) -> Call:
    path, visit = str(line["path"]), int(line["visit"])
    leaves = []
    for tensor in line["tensors"]:
        at = str(tensor["at"])
        if "same" in tensor:
            summary = known[tensor["same"]]
        else:
            summary = _summary(tensor)
            known[f"{path}#{visit} {at}"] = summary
        leaves.append(Leaf(at, summary))
    inputs = line.get("in")
    return Call(path, visit, str(line["class"]), str(line["out"]), tuple(leaves), inputs)


def _summary(tensor: Mapping[str, Any]) -> Summary:
    shape = tuple(int(size) for size in tensor["shape"])
    if any(size < 0 for size in shape):
        raise ValueError("a shape has a negative size")
    statistics = {
        attribute: None if name not in tensor else float(tensor[name])
        for name, attribute in _STATISTICS.items()
    }
    norms = _bytes(tensor.get("norms", ""), None)
    if norms and len(norms) != 4 * token_count(shape):
        raise ValueError("norms do not fit their tensor's shape")
    return Summary(
        shape=shape,
        dtype=str(tensor["dtype"]),
        nan=int(tensor.get("nan", 0)),
        inf=int(tensor.get("inf", 0)),
        norms=norms,
        sketch=_bytes(tensor.get("sketch", ""), _SKETCH_BYTES if norms else 0),
        digest=str(tensor.get("digest", "")),
        **statistics,
    )


def _bytes(text: Any, size: int | None) -> bytes:
    data = base64.b64decode(text, validate=True)
    if size is not None and len(data) != size:
        raise ValueError(f"a sketch has {len(data)} bytes, not {size}")
    return data
