"""``pytest-nnsight diff``: two models, or two settings of one, call by call with no golden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_nnsight.errors import UsageError, hide_home, suggest, visible

if TYPE_CHECKING:
    from pytest_nnsight.compare.alignment import Alignment
    from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding
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

        known = [field.name for field in fields(LoadOptions) if field.name != "is_away"]
        given = dict(pair.partition("=")[::2] for pair in settings.split(",") if pair)
        for name in given:
            if name not in known:
                raise UsageError(f"there is no setting {name!r}; nearest: {suggest(name, known)}")
        trusted = given.pop("trust_remote_code", "no") in ("yes", "true", "1")
        return cls(
            parse_spec(spec), LoadOptions(trust_remote_code=trusted, is_remote=False, **given)
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """One run of the first model and the same of the second, compared."""

    title: str
    finding: Finding
    alignment: Alignment
    diagnosis: Diagnosis | None

    @property
    def drifts(self) -> bool:
        """Whether the two differ by more than noise, or have modules without a partner."""
        assert self.finding.comparison is not None
        lost = self.alignment.only_golden or self.alignment.only_received
        return bool(lost) or not self.finding.comparison.matches

    def lines(self) -> Iterator[str]:
        """Yield what is told of it, the verdict first."""
        from pytest_nnsight.report.failure import comparison_lines

        comparison = self.finding.comparison
        assert comparison is not None
        yield visible(f"{self.title}:")
        for line in comparison_lines(self.finding, self.diagnosis):
            yield f"  {line}"
        if comparison.divergence is not None and comparison.matches:
            yield visible(f"  compared up to a {comparison.divergence.closeness}")
        for line in self._lost():
            yield visible(f"  {line}")

    def _lost(self) -> Iterator[str]:
        alignment = self.alignment
        sides = (("first", alignment.only_golden), ("second", alignment.only_received))
        for name, paths in sides:
            if paths:
                more = f" and {len(paths) - _MOST} more" if len(paths) > _MOST else ""
                yield f"only in the {name}: {', '.join(paths[:_MOST])}{more}"

    def test(self) -> dict[str, Any]:
        """Return it as a report has a test."""
        from pytest_nnsight.report.detail import build_detail
        from pytest_nnsight.report.outcomes import FAILED, PASSED
        from pytest_nnsight.report.record import record_of_failure, record_of_match

        finding = self.finding
        assert finding.golden is not None
        lines = [*self.lines()]
        line = lines[1].strip()
        if self.diagnosis is None:
            record = record_of_match(finding)
        else:
            record = {**record_of_failure(finding, self.diagnosis), "line": line}
        found = build_detail(finding.golden, finding.received, finding.comparison)
        return {
            "test": self.title,
            "outcome": PASSED if self.diagnosis is None else FAILED,
            "line": line,
            "text": "\n".join(lines),
            "goldens": [{**record, "detail": found}],
        }


def differences(
    sides: tuple[Side, Side], prompts: Sequence[str], new_tokens: int, say: Say
) -> Iterator[Difference]:
    """Compare two models: of each prompt a trace, and with ``new_tokens`` a generation.

    One model is loaded after the other; the runs of the first stand where goldens would.
    """
    from pytest_nnsight.compare.alignment import align
    from pytest_nnsight.compare.comparison import compare
    from pytest_nnsight.diagnose.diagnosis import Finding
    from pytest_nnsight.report.failure import diagnose_finding

    (before, old), (now, new) = (_runs(side, prompts, new_tokens, say) for side in sides)
    for number, (golden, received) in enumerate(zip(before, now, strict=True)):
        alignment = align(golden, received)
        renamed = alignment.renamed(received)
        title = f"{golden.kind} of {prompts[number // (2 if new_tokens else 1)]!r}"
        finding = Finding(
            title,
            golden=golden,
            received=renamed,
            comparison=compare(golden, renamed),
            golden_weights=old,
            received_weights=alignment.parameters(new),
        )
        yield Difference(title, finding, alignment, diagnose_finding(finding))


def report_of(found: Sequence[Difference], models: Sequence[str]) -> dict[str, Any]:
    """Return differences as the report of a session has tests, for a page of them."""
    from importlib import metadata

    from pytest_nnsight.report.outcomes import FORMAT

    names = ("pytest-nnsight", "nnsight", "torch", "transformers")
    return {
        "format": FORMAT,
        "kind": "report",
        "versions": {name: metadata.version(name) for name in names},
        "models": [hide_home(model) for model in models],
        "tests": [difference.test() for difference in found],
        "errors": [],
        "not_run": [],
    }


def _runs(
    side: Side, prompts: Sequence[str], new_tokens: int, say: Say
) -> tuple[list[Run], dict[str, str]]:
    from functools import partial

    from pytest_nnsight import nnsight_api
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.models.identity import identify
    from pytest_nnsight.models.loading import load
    from pytest_nnsight.run import with_weights
    from pytest_nnsight.summary.fingerprint import fingerprint_parameters, weights_fingerprint

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
