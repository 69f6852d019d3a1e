"""Requirements are combined package by package."""

from __future__ import annotations

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.upgrade.requirements import combinations, package_of


def test_versions_of_different_packages_are_combined() -> None:
    requirements = [
        "transformers==4.57.6",
        "transformers==5.2.0",
        "nnsight==0.7.0",
        "nnsight==0.7.0",
    ]
    assert combinations(requirements) == [
        ("transformers==4.57.6", "nnsight==0.7.0"),
        ("transformers==5.2.0", "nnsight==0.7.0"),
    ]


def test_two_spellings_of_a_name_are_one_package() -> None:
    assert combinations(["Huggingface_Hub==1", "huggingface-hub==2"]) == [
        ("Huggingface_Hub==1",),
        ("huggingface-hub==2",),
    ]


@pytest.mark.parametrize("requirement", ["5.23.0", "transformers=5", "", "a b", "--index-url=x"])
def test_text_that_is_not_a_requirement_is_refused(requirement: str) -> None:
    with pytest.raises(
        UsageError, match=r"is not a requirement; write it as transformers==5\.23\.0$"
    ):
        package_of(requirement)
