"""Comparing sentences of the documentation hold by docs/results, and the check finds those that do not."""

from __future__ import annotations

import pytest

from benchmark_scripts import benchmark

checks = benchmark("claims")


@pytest.fixture(scope="module")
def claims() -> list:
    return list(checks.claims())


def test_every_comparing_sentence_holds(claims: list) -> None:
    assert list(checks.faults(checks.pages(), claims)) == []


def found(claims: list, page: str, old: str, new: str) -> list[str]:
    """What is wrong once ``page`` says ``new`` for ``old``."""
    texts = dict(checks.pages())
    assert old in texts[page]
    return list(checks.faults({**texts, page: texts[page].replace(old, new)}, claims))


def test_another_figure_is_found(claims: list) -> None:
    assert any("1.9" in fault for fault in found(claims, "docs/methods/README.md", "1.8 times", "1.9 times"))


def test_a_figure_that_results_do_not_have_is_found() -> None:
    claim = checks.Claim("page", "27.3 of 100", {"27.3": 27.4}, {"more than random": False})
    assert len(list(claim.faults("It is 27.3 of 100."))) == 2
    assert list(claim.faults("It is 27.4 of 100.")) != []


@pytest.mark.parametrize(
    "sentence",
    [
        "With 500 pairs a student learns as much as from all photos.",
        "Our sets are the best at 100 pairs.",
        "It takes 3 times less memory.",
        "This is 97 % of the full data.",
        "Students reach 27.3 here.",
    ],
)
def test_a_sentence_without_a_claim_is_found(claims: list, sentence: str) -> None:
    texts = {**checks.pages(), "docs/new.md": f"# A page\n\n{sentence}\n"}
    assert [fault for fault in checks.faults(texts, claims) if sentence in fault]


def test_tables_and_code_are_not_sentences() -> None:
    made = "<!-- table: x -->\n| best | 3.4 |\n<!-- end table -->\n\n```sh\nvldistill x 4.5 best\n```\n"
    assert list(checks.sentences(made)) == []
