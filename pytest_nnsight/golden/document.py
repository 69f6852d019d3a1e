"""Run <-> the text of a golden, format 1. JSON only; the same run gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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

FORMAT = 1
KINDS = ("trace", "generate", "scan", "tensors")
_STATISTICS = {"min": "minimum", "max": "maximum", "mean": "mean", "std": "std"}


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
            "modules": _sorted(run.model.modules),
            "generation": _sorted(run.model.generation),
        },
        "environment": {
            "versions": _sorted(run.environment.versions),
            "device": run.environment.device,
            "dtype": run.environment.dtype,
            "attention": run.environment.attention,
            "threads": run.environment.threads,
            "cpu": run.environment.cpu,
            "kernels": run.environment.kernels,
        },
        "calibration": run.calibration,
        "input": {
            "text": run.prompt.text,
            "batch": run.prompt.is_batch,
            "token_ids": run.prompt.token_ids,
            "pieces": run.prompt.pieces,
            "tensors": {
                name: encode_ranges(rows) for name, rows in sorted(run.prompt.tensors.items())
            },
            **({"digests": _sorted(run.prompt.digests)} if run.prompt.digests else {}),
            "generation": _sorted(run.prompt.generation),
            "intervention": run.prompt.intervention,
            "intervention_code": run.prompt.intervention_code,
        },
        "output": None
        if run.generated is None
        else {
            "token_ids": run.generated.token_ids,
            "text": run.generated.text,
            "pieces": run.generated.pieces,
            "margins": [to_base64(margins) for margins in run.generated.margins],
        },
    }
    lines = [f"{json.dumps(key)}: {_json(value)}," for key, value in head.items()]
    known: dict[int, str] = {}
    calls = [_json(_call_to_json(call, run.environment.dtype, known)) for call in run.calls]
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


def _call_to_json(call: Call, dtype: str, known: dict[int, str]) -> dict[str, Any]:
    """Write a call; a first visit goes without saying, as does ``dtype``, which is the model's."""
    line: dict[str, Any] = {"path": call.path}
    if call.visit:
        line["visit"] = call.visit
    line["class"] = call.module_class
    if call.inputs is not None:
        line["in"] = call.inputs
    line["out"] = call.output
    line["tensors"] = [_leaf_to_json(call, leaf, dtype, known) for leaf in call.leaves]
    return line


def _leaf_to_json(call: Call, leaf: Leaf, dtype: str, known: dict[int, str]) -> dict[str, Any]:
    """Write a tensor; one that stands earlier in the file is written as where it stands."""
    summary = leaf.summary
    if id(summary) in known:
        return {"at": leaf.at, "same": known[id(summary)]}
    known[id(summary)] = f"{call.path}#{call.visit} {leaf.at}"
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
    number = document.get("format") if isinstance(document, dict) else None
    if type(number) is not int or number < 1:
        raise GoldenError(f"{name} is no golden of pytest-nnsight: it has no format number")
    if document["format"] > FORMAT:
        raise GoldenError(
            f"{name} has format {document['format']}, this version reads up to {FORMAT}; "
            "upgrade pytest-nnsight"
        )
    try:
        return _read_run(document)
    except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError) as error:
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise _broken(name, f"is damaged ({reason[:120]})") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _broken(name: str, what: str) -> GoldenError:
    return GoldenError(f"{name} {what}; restore it, or write it anew with --snapshot-update")


def _read_run(document: Mapping[str, Any]) -> Run:
    model, environment, prompt = document["model"], document["environment"], document["input"]
    output = document["output"]
    if document["kind"] not in KINDS:
        raise ValueError(f"kind {document['kind']!r} is unknown")
    for texts in (model["revision"], model["weights"], prompt["intervention"]):
        if not isinstance(texts, str | None):
            raise ValueError(f"{texts!r:.40} should be text")
    if output is not None and len(output["text"]) != len(output["token_ids"]):
        raise ValueError("texts and token ids differ in number")
    margins = () if output is None else zip(output["margins"], output["token_ids"], strict=False)
    for numbers, ids in margins:
        from_base64(numbers, 4 * len(ids))
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
            modules={
                str(name): {str(text): int(count) for text, count in counts.items()}
                for name, counts in model["modules"].items()
            },
            generation=dict(model["generation"]),
        ),
        environment=Environment(
            versions={str(k): str(v) for k, v in environment["versions"].items()},
            device=str(environment["device"]),
            dtype=str(environment["dtype"]),
            attention=str(environment["attention"]),
            threads=int(environment["threads"]),
            cpu=str(environment["cpu"]),
            kernels=str(environment["kernels"]),
        ),
        prompt=Prompt(
            text=prompt["text"],
            token_ids=_rows(prompt["token_ids"]),
            pieces=_texts(prompt["pieces"]),
            tensors={str(name): decode_ranges(rows) for name, rows in prompt["tensors"].items()},
            digests={str(k): str(v) for k, v in prompt.get("digests", {}).items()},
            is_batch=bool(prompt["batch"]),
            generation=dict(prompt["generation"]),
            intervention=prompt["intervention"],
            intervention_code=str(prompt["intervention_code"]),
        ),
        generated=None
        if output is None
        else Generated(
            token_ids=_rows(output["token_ids"]),
            text=tuple(str(text) for text in output["text"]),
            margins=tuple(from_base64(margins, None) for margins in output["margins"]),
            pieces=_texts(output["pieces"]),
        ),
        calls=tuple(_call(line, str(environment["dtype"]), known) for line in document["calls"]),
        calibration=tuple(str(name) for name in document["calibration"]),
    )


def _rows(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(token) for token in row) for row in value)


def _texts(value: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(piece) for piece in row) for row in value)


def _call(line: Mapping[str, Any], dtype: str, known: dict[str, Summary]) -> Call:
    path, visit = str(line["path"]), int(line.get("visit", 0))
    leaves = []
    for tensor in line["tensors"]:
        at = str(tensor["at"])
        if "same" in tensor:
            summary = known[tensor["same"]]
        else:
            summary = _summary(tensor, dtype)
            known[f"{path}#{visit} {at}"] = summary
        leaves.append(Leaf(at, summary))
    inputs = line.get("in")
    return Call(path, visit, str(line["class"]), str(line["out"]), tuple(leaves), inputs)


def _summary(tensor: Mapping[str, Any], dtype: str) -> Summary:
    shape = tuple(int(size) for size in tensor["shape"])
    if any(size < 0 for size in shape):
        raise ValueError("a shape has a negative size")
    statistics = {
        attribute: None if name not in tensor else float(tensor[name])
        for name, attribute in _STATISTICS.items()
    }
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
        **statistics,
    )
