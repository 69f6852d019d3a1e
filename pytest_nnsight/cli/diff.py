"""``pytest-nnsight diff``: compare two models, or two settings of one, call by call, no golden."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_nnsight.cli.alignment import Alignment, align
from pytest_nnsight.cli.output import check_output_file, print_progress, write_page
from pytest_nnsight.errors import UsageError, hide_home, suggest, visible
from pytest_nnsight.models.spec import LoadOptions, ModelSpec, parse_spec
from pytest_nnsight.report.failure import comparison_lines
from pytest_nnsight.report.outcomes import FAILED, FORMAT, PASSED
from pytest_nnsight.report.record import build_detail, record_of_failure, record_of_match
from pytest_nnsight.run import Run, with_weights

if TYPE_CHECKING:
    from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding

HELP = "compare two models, or two settings of one model, without a golden"
DEFAULT_PROMPT = "The Eiffel Tower is in the city of"
_MAX_PATHS = 12  # of the modules without a counterpart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``diff``."""
    for name in ("first", "second"):
        parser.add_argument(name, help="a model spec, as for pytest --nnsight-model")
        parser.add_argument(
            f"--{name}",
            dest=f"{name}_settings",
            default="",
            metavar="SETTINGS",
            help=f"how to load the {name} model, such as dtype=bfloat16,attn=eager",
        )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help=f"a prompt to run; repeat it for more (default: {DEFAULT_PROMPT!r})",
    )
    parser.add_argument(
        "--generate",
        type=int,
        default=0,
        metavar="N",
        help="also generate N new tokens after each prompt (default: 0)",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write the comparison to FILE, as HTML"
    )


def run(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Print what differs; return 1 where the models differ by more than noise, else 0."""
    models = [(options.first, options.first_settings), (options.second, options.second_settings)]
    sides = (Side.parse(*models[0]), Side.parse(*models[1]))
    check_output_file("--html", options.html)
    found = []
    prompts = options.prompt or [DEFAULT_PROMPT]
    for difference in differences(sides, prompts, options.generate, print_progress):
        found.append(difference)
        for line in difference.lines():
            print(line)
    if options.html is not None:
        names = [" ".join(filter(None, model)) for model in models]
        write_page(report_of(found, names), options.html)
    return int(any(difference.is_drift for difference in found))


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models, and how to load it."""

    spec: ModelSpec
    options: LoadOptions

    @classmethod
    def parse(cls, spec: str, settings: str) -> Side:
        """Parse a model spec, and settings such as ``dtype=bfloat16,attn=eager``."""
        allowed = [field.name for field in fields(LoadOptions) if field.name != "is_remote"]
        values = dict(pair.partition("=")[::2] for pair in settings.split(",") if pair)
        for name in values:
            if name not in allowed:
                raise UsageError(f"there is no setting {name!r}; nearest: {suggest(name, allowed)}")
        trust = values.pop("trust_remote_code", "no") in ("yes", "true", "1")
        options = LoadOptions(trust_remote_code=trust, is_remote=False, **values)
        return cls(parse_spec(spec), options)


@dataclass(frozen=True, slots=True)
class Difference:
    """The comparison of one run of the first model with the same run of the second."""

    title: str
    finding: Finding
    alignment: Alignment
    diagnosis: Diagnosis | None

    @property
    def is_drift(self) -> bool:
        """Whether the models differ by more than noise, or one has modules that the other lacks."""
        assert self.finding.comparison is not None
        unmatched = self.alignment.only_golden or self.alignment.only_received
        return bool(unmatched) or not self.finding.comparison.matches

    def lines(self) -> Iterator[str]:
        """Yield the lines to print: a title, the verdict, then details."""
        comparison = self.finding.comparison
        assert comparison is not None
        yield visible(f"{self.title}:")
        for line in comparison_lines(self.finding, self.diagnosis):
            yield f"  {line}"
        if comparison.divergence is not None and comparison.matches:
            yield visible(f"  compared up to a {comparison.divergence.closeness}")
        only = ("first", self.alignment.only_golden), ("second", self.alignment.only_received)
        for name, paths in only:
            if paths:
                hidden = len(paths) - _MAX_PATHS
                more = f" and {hidden} more" if hidden > 0 else ""
                yield visible(f"  only in the {name}: {', '.join(paths[:_MAX_PATHS])}{more}")

    def as_test(self) -> dict[str, Any]:
        """Return the difference as an entry of a report's ``tests``."""
        finding = self.finding
        assert finding.golden is not None
        lines = [*self.lines()]
        verdict = lines[1].strip()
        if self.diagnosis is None:
            record = record_of_match(finding)
        else:
            record = {**record_of_failure(finding, self.diagnosis), "line": verdict}
        details = build_detail(finding.golden, finding.received, finding.comparison)
        return {
            "test": self.title,
            "outcome": PASSED if self.diagnosis is None else FAILED,
            "line": verdict,
            "text": "\n".join(lines),
            "goldens": [{**record, "detail": details}],
        }


def differences(
    sides: tuple[Side, Side],
    prompts: Sequence[str],
    new_tokens: int,
    say: Callable[[str], None],
) -> Iterator[Difference]:
    """Trace each prompt on both models, also generate if ``new_tokens`` > 0, and compare.

    The models are loaded one after the other. The runs of the first are used as goldens.
    ``say`` prints the progress of loading.
    """
    from pytest_nnsight.compare.comparison import compare
    from pytest_nnsight.diagnose.diagnosis import Finding
    from pytest_nnsight.report.failure import diagnose_finding

    first, second = (_capture_runs(side, prompts, new_tokens, say) for side in sides)
    for number, (golden, received) in enumerate(zip(first[0], second[0], strict=True)):
        alignment = align(golden, received)
        renamed = alignment.renamed(received)
        title = f"{golden.kind} of {prompts[number // (2 if new_tokens else 1)]!r}"
        finding = Finding(
            title,
            golden=golden,
            received=renamed,
            comparison=compare(golden, renamed),
            golden_weights=first[1],
            received_weights=alignment.parameters(second[1]),
        )
        yield Difference(title, finding, alignment, diagnose_finding(finding))


def report_of(found: Sequence[Difference], models: Sequence[str]) -> dict[str, Any]:
    """Return the differences in the format of a session's report, for its HTML page."""
    names = ("pytest-nnsight", "nnsight", "torch", "transformers")
    return {
        "format": FORMAT,
        "kind": "report",
        "versions": {name: metadata.version(name) for name in names},
        "models": [hide_home(model) for model in models],
        "tests": [difference.as_test() for difference in found],
        "errors": [],
        "not_run": [],
    }


def _capture_runs(
    side: Side, prompts: Sequence[str], new_tokens: int, say: Callable[[str], None]
) -> tuple[list[Run], dict[str, str]]:
    """Load one model and run the prompts; return the runs and the weights' fingerprints."""
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.models.identity import identify
    from pytest_nnsight.models.loading import load
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
