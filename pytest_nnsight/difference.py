"""``pytest-nnsight diff``: two models, or two settings of one, call by call with no golden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from pytest_nnsight.errors import UsageError, suggest, visible

if TYPE_CHECKING:
    from pytest_nnsight.models.spec import LoadOptions, ModelSpec
    from pytest_nnsight.run import Run

DEFAULT_PROMPT = "The Eiffel Tower is in the city of"
_MOST = 12  # modules without a partner that are named
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a model and how it is loaded."""

    spec: ModelSpec
    options: LoadOptions

    @classmethod
    def read(cls, spec: str, settings: str) -> Side:
        """Read a model spec, and settings such as ``dtype=bfloat16,attn=eager``."""
        from pytest_nnsight.models.spec import LoadOptions, parse_spec

        known = [field.name for field in fields(LoadOptions)]
        given = dict(pair.partition("=")[::2] for pair in settings.split(",") if pair)
        for name in given:
            if name not in known:
                raise UsageError(f"there is no setting {name!r}; nearest: {suggest(name, known)}")
        trusted = given.pop("trust_remote_code", "no") in ("yes", "true", "1")
        return cls(parse_spec(spec), LoadOptions(trust_remote_code=trusted, **given))


def difference_lines(
    sides: tuple[Side, Side], prompts: Sequence[str], new_tokens: int, say: Say
) -> Iterator[tuple[str, bool]]:
    """Yield lines about the difference of two models, each with whether it tells of a drift.

    One model is loaded after the other; what is compared are the runs of the first with those of
    the second, of each prompt a trace, and with ``new_tokens`` a generation.
    """
    from pytest_nnsight.compare.alignment import align
    from pytest_nnsight.compare.comparison import compare
    from pytest_nnsight.diagnose.diagnosis import Finding
    from pytest_nnsight.report.failure import comparison_lines, diagnosed

    (before, old), (now, new) = (_runs(side, prompts, new_tokens, say) for side in sides)
    for number, (golden, received) in enumerate(zip(before, now, strict=True)):
        alignment = align(golden, received)
        renamed = alignment.renamed(received)
        finding = Finding(
            "",
            golden=golden,
            received=renamed,
            comparison=compare(golden, renamed),
            golden_weights=old,
            received_weights=alignment.parameters(new),
        )
        assert finding.comparison is not None
        drifts, flip = not finding.comparison.matches, finding.comparison.flip
        yield f"{golden.kind} of {prompts[number // (2 if new_tokens else 1)]!r}:", False
        for line in comparison_lines(finding, diagnosed(finding)):
            yield f"  {line}", drifts
        if flip is not None and not drifts:
            yield visible(f"  compared up to a {flip.closeness}"), False
        for name, paths in (
            ("first", alignment.only_golden),
            ("second", alignment.only_received),
        ):
            if paths:
                more = f" and {len(paths) - _MOST} more" if len(paths) > _MOST else ""
                yield f"  only in the {name}: {', '.join(paths[:_MOST])}{more}", True


def _runs(
    side: Side, prompts: Sequence[str], new_tokens: int, say: Say
) -> tuple[list[Run], dict[str, str]]:
    from functools import partial

    from pytest_nnsight import nnsight_api
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.fingerprint import fingerprint_parameters, weights_fingerprint
    from pytest_nnsight.models.identity import identify
    from pytest_nnsight.models.loading import load
    from pytest_nnsight.run import with_weights

    model = load(side.spec, side.options, say, False)
    capture = Capture(model, partial(identify, model, side.spec))
    runs = []
    for prompt in prompts:
        runs.append(capture.trace(prompt))
        if new_tokens:
            runs.append(capture.generate(prompt, max_new_tokens=new_tokens))
    parameters = fingerprint_parameters(nnsight_api.torch_module(model))
    fingerprint = weights_fingerprint(parameters)
    return [with_weights(run, fingerprint) for run in runs], parameters
