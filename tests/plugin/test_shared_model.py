"""State that a test changes on the shared model is restored and reported after the test."""

from __future__ import annotations

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

# name: (what a test does to the model, the message)
LEAKS = {
    "edit": (
        "with nnsight_model.edit(inplace=True):\n"
        "        nnsight_model.transformer.h[0].mlp.output[:] = 0",
        "1 persistent edit(s), cleared",
    ),
    "train": ("module.train()", "training mode on 34 of 34 modules, restored"),
    "grad": (
        "module(torch.tensor([[1, 2]])).logits.sum().backward()",
        "gradients on 28 of 28 parameters, dropped",
    ),
    "asks": ("module.requires_grad_(False)", "requires_grad of 28 of 28 parameters, restored"),
    "padding": (
        "nnsight_model.tokenizer.padding_side = 'right'",
        "tokenizer padding side 'right', back to 'left'",
    ),
    "hook": (
        "module.lm_head.register_forward_hook(lambda *a: a[2] * 0)",
        "torch hooks on lm_head, restored",
    ),
    "everywhere": (
        "torch.nn.modules.module.register_module_forward_hook(lambda *a: None)",
        "torch hooks on all modules, restored",
    ),
    "tensor": (
        "module.lm_head.weight.register_hook(lambda g: g * 0)",
        "hooks on parameters transformer.wte.weight, restored",
    ),
    "forward": (
        "module.lm_head.forward = lambda x: x",
        "another forward on lm_head, restored",
    ),
    "half": (
        "module.half()",
        "parameters replaced, cast or moved: transformer.wte.weight, transformer.wpe.weight, "
        "transformer.h.0.ln_1.weight and 25 more, restored",
    ),
    "data": (
        "module.transformer.ln_f.weight.data = torch.zeros(64)",
        "parameters replaced, cast or moved: transformer.ln_f.weight, restored",
    ),
    "replaced": (
        "module.transformer.ln_f.weight = torch.nn.Parameter(torch.zeros(64))",
        "parameters replaced, cast or moved: transformer.ln_f.weight, restored",
    ),
    "config": ("module.config.use_cache = False", "config use_cache, restored"),
    "generation": (
        "module.generation_config.max_length = 3",
        "generation config max_length, restored",
    ),
    "no grad": ("torch.set_grad_enabled(False)", "torch's grad mode False, back to True"),
    "dtype": (
        "torch.set_default_dtype(torch.float64)",
        "torch's default dtype torch.float64, back to torch.float32",
    ),
    "written": (
        "torch.nn.init.zeros_(module.transformer.ln_f.weight)",
        "weights changed: 1 of 28 parameters differ (transformer.ln_f.weight); it is loaded again",
    ),
    "numpy": (
        "module.transformer.ln_f.weight.detach().numpy()[:] = 0",
        "weights changed: 1 of 28 parameters differ (transformer.ln_f.weight); it is loaded again",
    ),
    "child": (
        "module.transformer.h[0].mlp = torch.nn.Identity()",
        "modules replaced or added in transformer.h.0; weights changed: 4 of 28 parameters differ "
        "(transformer.h.0.mlp.c_fc.bias, transformer.h.0.mlp.c_fc.weight, "
        "transformer.h.0.mlp.c_proj.bias and 1 more); it is loaded again",
    ),
}
IS_CLEAN = """
def is_clean(nnsight_model, nnsight_capture, nnsight_golden):
    assert nnsight_capture.generate("Hello", max_new_tokens=3) == nnsight_golden
    module = nnsight_model._module
    assert not module.training and torch.is_grad_enabled()
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert nnsight_model.tokenizer.padding_side == "left"
    assert torch.get_default_dtype() == torch.float32
    assert module.config.use_cache and module.generation_config.max_length != 3
    assert not torch.nn.modules.module._global_forward_hooks
"""


def write_all(project: Project) -> None:
    parts = [IS_CLEAN]
    for number, (does, _) in enumerate(LEAKS.values()):
        parts.append(
            f"def test_{number}_leaves(nnsight_model):\n"
            f"    module = nnsight_model._module\n    {does}\n"
            f"def test_{number}_next(nnsight_model, nnsight_capture, nnsight_golden):\n"
            "    is_clean(nnsight_model, nnsight_capture, nnsight_golden)\n"
        )
    project.test_file("\n".join(parts))


def test_a_leak_fails_its_test_and_the_next_test_has_a_clean_model(project: Project) -> None:
    write_all(project)
    project.run(*TINY, "--snapshot-update", "-k", "next").assert_outcomes(passed=len(LEAKS))
    result = project.run(*TINY, "--nnsight-leaks=fail")
    result.assert_outcomes(passed=2 * len(LEAKS), errors=len(LEAKS))
    for number, (_, message) in enumerate(LEAKS.values()):
        lines = iter(result.outlines)
        assert any(f"ERROR at teardown of test_{number}_leaves" in line for line in lines)
        assert f"left on the model: {message}" in [next(lines), next(lines)]
    loads = [line for line in result.outlines + result.errlines if "loading tiny:gpt2" in line]
    assert len(loads) == 4  # the first, and one after each of three leaks that cannot be restored


def test_attributes_that_nnsight_sets_for_source_are_not_a_leak(project: Project) -> None:
    project.test_file(
        """
def test_reads(nnsight_model):
    with nnsight_model.trace("Hello"):
        merged = nnsight_model.transformer.h[0].attn.source.self_c_proj_0.output.save()
    assert merged.shape == (1, 5, 64)

def test_reads_again(nnsight_model):
    test_reads(nnsight_model)
"""
    )
    project.run(*TINY).assert_outcomes(passed=2)


def test_leaks_may_be_ignored(project: Project) -> None:
    project.test_file(
        """
def test_leaves(nnsight_model):
    nnsight_model._module.train()

def test_next(nnsight_model):
    assert nnsight_model._module.training
"""
    )
    project.pytester.makeini("[pytest]\nnnsight_leaks = off")
    project.run(*TINY, "-W", "error").assert_outcomes(passed=2)


def test_a_marker_turns_the_check_off_for_one_test(project: Project) -> None:
    project.test_file(
        """
@pytest.mark.nnsight(leaks="off")
def test_leaves(nnsight_model):
    nnsight_model._module.train()

def test_next(nnsight_model):
    assert nnsight_model._module.training
"""
    )
    project.run(*TINY).assert_outcomes(passed=2)


def test_a_leak_of_a_failed_test_is_a_section_of_its_report(project: Project) -> None:
    project.test_file(
        """
def test_fails(nnsight_model):
    nnsight_model._module.train()
    assert 0
"""
    )
    result = project.run(*TINY)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*Captured nnsight teardown*", "left on the model: training mode on*"]
    )


def test_weights_that_the_test_restores_are_not_a_leak(project: Project) -> None:
    project.test_file(
        """
def test_restores(nnsight_model):
    weight = nnsight_model._module.lm_head.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
        weight.copy_(before)

def test_draws(nnsight_model):
    torch.manual_seed(3)

def test_draws_too(nnsight_model):
    assert torch.initial_seed() != 3
"""
    )
    project.run(*TINY).assert_outcomes(passed=3)


def test_a_fixture_of_wider_scope_may_change_the_model_for_its_tests(project: Project) -> None:
    project.test_file(
        """
@pytest.fixture(scope="module")
def noisy(nnsight_model):
    weight = nnsight_model._module.lm_head.weight
    before = weight.detach().clone()
    torch.nn.init.zeros_(weight)
    hook = weight.register_hook(lambda g: g)
    with nnsight_model.edit(inplace=True):
        nnsight_model.transformer.h[0].mlp.output[:] = 0
    yield nnsight_model
    nnsight_model.clear_edits()
    hook.remove()
    with torch.no_grad():
        weight.copy_(before)

@pytest.mark.parametrize("number", range(2))
def test_noisy(noisy, nnsight_capture, nnsight_golden, number):
    assert not noisy._module.lm_head.weight.any()
    run = nnsight_capture.trace("Hello", keep="transformer.h.0.mlp")
    assert not run["transformer.h.0.mlp"].output.any()
    assert run == nnsight_golden
"""
    )
    project.test_file("def test_later(nnsight_model):\n    pass\n", "test_later.py")
    project.write_goldens(*TINY, passed=3)
    project.run(*TINY).assert_outcomes(passed=3)


def test_a_fixture_of_wider_scope_that_does_not_restore_weights_is_an_error(
    project: Project,
) -> None:
    project.test_file(
        """
@pytest.fixture(scope="module")
def noisy(nnsight_model):
    torch.nn.init.zeros_(nnsight_model._module.lm_head.weight)

def test_noisy(noisy):
    pass
"""
    )
    result = project.run(*TINY)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "fixture 'noisy' left weights changed: 1 of 28 parameters differ "
            "(transformer.wte.weight); the model is loaded again"
        ]
    )


UNSEEN = """
def test_before(nnsight_model):
    pass

def test_changes(nnsight_model):
    nnsight_model._module.transformer.wpe.weight.data[7, 7] += 0.01

def test_after(nnsight_capture, nnsight_golden):
    if "GOLDEN" in os.environ:
        assert nnsight_capture.trace([1, 2, 3, 4, 5, 6, 7, 8, 9]) == nnsight_golden

def test_last(nnsight_capture, nnsight_golden):
    if "GOLDEN" in os.environ:
        assert nnsight_capture.trace([1, 2, 3, 4, 5, 6, 7, 8, 9]) == nnsight_golden
"""
UNSEEN_MESSAGE = (
    "weights changed unseen: 1 of 28 parameters differ (transformer.wpe.weight), by one of"
)


@pytest.mark.parametrize("way", [(), ("-n2", "--dist=load")], ids=str)
def test_one_changed_value_is_found_at_the_end(project: Project, way: tuple[str, ...]) -> None:
    project.test_file(UNSEEN)
    result = project.run(*TINY, *way)
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines([f"*the model is not what was loaded: {UNSEEN_MESSAGE}*changes*"])


def test_one_changed_value_is_found_before_a_library_is_blamed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(UNSEEN)
    monkeypatch.setenv("GOLDEN", "1")
    clean = project.run(*TINY, "--snapshot-update", "-k", "after or last")
    clean.assert_outcomes(passed=2)
    result = project.run(*TINY)
    result.assert_outcomes(passed=3, failed=1)  # for the last test the model is loaded again
    result.stdout.re_match_lines(
        [
            r".*golden drift: .*cause: weights \(1 of 28 parameters differ: "
            r"transformer\.wpe\.weight\), changed since the model was loaded",
            f".*{UNSEEN_MESSAGE} 3 tests: ".replace("(", r"\(").replace(")", r"\)")
            + "test_it.py::test_after, test_it.py::test_changes, test_it.py::test_before",
        ]
    )


def test_no_golden_is_written_after_one_changed_value(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(UNSEEN)
    monkeypatch.setenv("GOLDEN", "1")
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines([f"golden not written: {UNSEEN_MESSAGE} 3 tests: *"])
    assert [*project.goldens()] == ["tiny-gpt2/cpu-float32/test_it/test_last.json"]


@pytest.mark.parametrize("options", [("-x",), ("-x", "-n0")], ids=str)
def test_weights_are_checked_at_the_end_after_the_first_failure(
    project: Project, options: tuple[str, ...]
) -> None:
    project.test_file(UNSEEN + "\ndef test_fails(nnsight_model):\n    assert 0\n")
    project.test_file("def test_more(nnsight_model):\n    pass\n", "test_more.py")
    result = project.run(*TINY, *options)
    assert result.ret == 1
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    text = result.stdout.str() + result.stderr.str()
    assert "the model is not what was loaded" in text


def test_a_model_from_a_users_fixture_is_guarded_and_made_again(project: Project) -> None:
    project.test_file(
        """
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec

MADE = []

@pytest.fixture(scope="session")
def nnsight_model():
    options = LoadOptions("auto", "auto", None, False)
    MADE.append(load(parse_spec("tiny:gpt2"), options, lambda text: None, False))
    return MADE[-1]

def test_leaves(nnsight_model):
    torch.nn.init.zeros_(nnsight_model._module.lm_head.weight)

def test_next(nnsight_model):
    assert len(MADE) == 2
    assert nnsight_model._module.lm_head.weight.any()
"""
    )
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left on the model: weights changed: *; it is loaded again"])
