"""Verdicts: Holm by statsmodels, agreement of intervals and decisions, error rates by simulation, and words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtr
from statsmodels.stats.multitest import multipletests

from orchestrator.stats import compare_paired, compare_unpaired, decide

NAN = math.nan
MIRROR = {"better": "worse", "worse": "better"}
TEMPLATE = compare_paired([1.0, 2.0, 4.0, 3.0, 6.0], [1.5, 1.0, 2.0, 3.5, 4.0], mode="max")


def contrast(difference, se, degrees=4.0, p_exact=1.0, smallest_p=0.0625):
    """A paired comparison with given t statistics."""
    p = 2 * float(stdtr(degrees, -abs(difference) / se))
    direction = int(np.sign(difference))
    return replace(
        TEMPLATE, difference=difference, se=se, degrees=degrees, p=p, p_exact=p_exact, smallest_p=smallest_p,
        direction=direction,
    )  # fmt: skip


def with_p(*ps):
    """Contrasts above 0 with given two-sided p."""
    from scipy.special import stdtrit

    return [contrast(-float(stdtrit(4, p / 2)), 1.0) for p in ps]


def excludes_zero(v):
    return v.low > 0 or v.high < 0 or (v.open_at_zero and 0 in (v.low, v.high))


# Holm


@pytest.mark.parametrize("m", [1, 2, 3, 8])  # few, since multipletests collects garbage each time
def test_where_all_point_one_way_it_is_holms_procedure(m):
    ps = np.random.default_rng(m).beta(0.2, 2, m)
    reject, corrected = multipletests(ps, method="holm")[:2]
    found = [v.p_holm for v in decide(with_p(*ps), mode="max")]
    # A one-sided p of ½ or more is cut at 1 after correction, where the two-sided one is still below 1.
    assert [min(p, 0.5) for p in found] == pytest.approx([min(p, 0.5) for p in corrected], rel=1e-6)
    assert [p <= 0.05 for p in found] == list(reject)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-12, 12), st.floats(0.2, 3)), min_size=1, max_size=7), st.sampled_from([0.9, 0.95]))
def test_between_bonferroni_and_holm_and_the_intervals_agree(drawn, level):
    family = [contrast(d, se) for d, se in drawn]
    found = decide(family, mode="max", level=level)
    ps, alpha, m = [c.p for c in family], round(1 - level, 12), len(family)
    below = sorted(ps)
    holm = next((k for k in range(m) if below[k] * (m - k) > alpha), m)  # how many the ordinary procedure rejects
    for v, p in zip(found, ps, strict=True):
        decided = v.decision in ("better", "worse")
        assert (p * m <= alpha) <= decided <= (p in below[:holm])
        assert decided == excludes_zero(v) == (v.p_holm <= alpha)
        assert v.low <= v.comparison.difference <= v.high
        assert v.p_holm >= p * (1 - 1e-12)


def test_the_bounds_are_those_of_strassburger_and_bretz():
    """r of m rejected: 0 for these, level 1 − α/(m − r) for the others; the upper bounds with none rejected below."""
    from orchestrator.stats import t_quantile

    found = decide([contrast(10.0, 1.0), contrast(1.0, 1.0), contrast(2.0, 1.0)], mode="max")
    assert [v.decision for v in found] == ["better", "no decision", "no decision"]
    two, three = t_quantile(1 - 0.05 / 2, 4), t_quantile(1 - 0.05 / 3, 4)
    assert (found[0].low, found[0].high, found[0].open_at_zero) == (0, pytest.approx(10 + three), True)
    assert (found[1].low, found[1].high) == (pytest.approx(1 - two), pytest.approx(1 + three))
    every = decide([contrast(10.0, 1.0), contrast(20.0, 1.0)], mode="max")
    half = t_quantile(1 - 0.05 / 2, 4)
    assert [(v.low, v.high, v.open_at_zero) for v in every] == [
        (pytest.approx(d - half), pytest.approx(d + half), False) for d in (10, 20)
    ]


def test_one_contrast_is_its_t_test():
    c = contrast(3.0, 1.0)
    (v,) = decide([c], mode="max")
    own = compare_paired([1.0, 2.0, 4.0, 3.0, 6.0], [1.5, 1.0, 2.0, 3.5, 4.0], mode="max")
    (w,) = decide([own], mode="max")
    assert (v.p_holm, v.decision) == (pytest.approx(c.p), "better")
    assert (w.low, w.high, w.p_holm) == pytest.approx((own.low, own.high, own.p))
    assert decide([], mode="max") == []


def _family(rng, truth, n, shared):
    """Differences of a baseline that all contrasts share: (draws, contrasts) means and standard errors."""
    draws = 2500
    noise = rng.normal(size=(draws, n, len(truth)))
    if shared:
        noise = (noise - rng.normal(size=(draws, n, 1))) / math.sqrt(2)
    values = noise + np.array(truth)
    return values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(n)


@pytest.mark.parametrize(
    ("truth", "shared"),
    [
        ((0, 50), False),  # the worst case of two-sided intervals that only cut Bonferroni's at 0: 92.6 %
        ((0, 0, 50, -50), False),
        ((0, 0, 0), True),
        ((0.7, -0.7, 0.0, 1.5), True),
    ],
)
def test_all_intervals_cover_together_and_all_directions_are_right(truth, shared):
    means, errors = _family(np.random.default_rng(7), truth, 5, shared)
    covered, right = [], []
    for row in zip(means, errors, strict=True):
        found = decide([contrast(float(d), float(se)) for d, se in zip(*row, strict=True)], mode="max")
        inside = [
            v.low < t < v.high or (t in (v.low, v.high) and not v.open_at_zero)
            for v, t in zip(found, truth, strict=True)
        ]
        wrong = [
            (v.decision == "better" and t <= 0) or (v.decision == "worse" and t >= 0)
            for v, t in zip(found, truth, strict=True)
        ]
        covered.append(all(inside))
        right.append(not any(wrong))
    slack = 3 * math.sqrt(0.05 * 0.95 / len(means))
    assert np.mean(covered) >= 0.95 - slack
    assert np.mean(right) >= 0.95 - slack


def test_false_equivalences_are_as_rare_as_stated():
    """Three contrasts at the margin and one far within, which Holm takes out of the count."""
    means, errors = _family(np.random.default_rng(8), (1, -1, 1, 0), 12, False)
    wrong = 0
    for row in zip(means, errors, strict=True):
        found = decide([contrast(float(d), float(se), 11.0) for d, se in zip(*row, strict=True)], mode="max", margin=1)
        wrong += any(v.within_margin for v in found[:3])
    assert wrong / len(means) <= 0.05 + 3 * math.sqrt(0.05 / len(means))
    assert wrong > 0


# Decisions


def test_the_mode_says_which_way_is_better():
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 1.1, 2, 3.1, 4])
    for mode, decision in (("max", "better"), ("min", "worse")):
        (found,) = decide([compare_paired(x, y, mode=mode)], mode=mode)
        assert found.decision == decision and found.reasons[0].startswith(decision.capitalize())
    with pytest.raises(ValueError, match="mode 'max', and the verdict is asked for 'min'"):
        decide([compare_paired(x, y, mode="max")], mode="min")


def test_equivalent_and_better_by_less_than_the_margin():
    y = np.random.default_rng(0).normal(size=8)
    noise = np.array([-3, -1, 0, 2, 1, -2, 0, 3])
    near = compare_paired(y + 0.01 * noise, y, mode="max")
    small = compare_paired(y + 0.1 + 0.01 * noise, y, mode="max")
    wide = compare_paired(y + noise, y, mode="max")
    found = decide([near, small, wide], mode="max", margin=0.3)
    assert [v.decision for v in found] == ["equivalent", "better", "no decision"]
    assert [v.within_margin for v in found] == [True, True, False]
    tost = multipletests([v.equivalence.p for v in found], method="holm")[1]
    assert [v.p_equivalence for v in found] == pytest.approx(list(tost))
    assert "less than the margin of 0.3" in found[1].reasons[0]
    assert "not shown to be equivalent within ± 0.3" in " ".join(found[2].reasons)
    (without,) = decide([near], mode="max")
    assert without.decision == "no decision" and "not shown to be equal" in " ".join(without.reasons)


def test_an_interval_within_the_margin_is_never_called_open():
    """Four decided contrasts narrow the fifth's interval below what Holm's equivalence test asks for."""
    family = [contrast(-50.0, 1.0) for _ in range(4)] + [contrast(0.5, 0.2)]
    by_interval = 0
    for margin in np.linspace(0.9, 1.5, 60):
        v = decide(family, mode="max", margin=float(margin))[-1]
        inside = -margin < v.low and v.high < margin
        assert v.decision == "equivalent" or not inside
        by_interval += inside and v.p_equivalence > 0.05 and "by its interval" in v.reasons[0]
    assert by_interval


@pytest.mark.parametrize(("n", "decision"), [(5, "cannot decide"), (6, "worse")])
def test_paired_runs_that_all_diverged(n, decision):
    (found,) = decide([compare_paired([NAN] * n, np.arange(n), mode="max")], mode="max")
    assert (found.decision, found.test, found.low) == (decision, "exact", None)
    assert f"{n} of {n} runs of the first setting diverged, and 0 of {n} of the second" in found.reasons[0]
    if n == 5:
        assert "smallest p it can give here is 0.0625, where at most 0.05 is needed" in found.reasons[0]


def test_what_holm_needs_counts_for_cannot_decide():
    """2/252 is enough alone, and not among ten contrasts of which none is decided."""
    lost = compare_unpaired([NAN] * 5, np.arange(5), mode="max")
    assert decide([lost], mode="max")[0].decision == "worse"
    found = decide([lost, *[contrast(0.1, 1.0)] * 9], mode="max")[0]
    assert found.decision == "cannot decide" and "at most 0.005 is needed" in found.reasons[0]
    helped = decide([lost, *[contrast(-50.0, 1.0)] * 9], mode="max")[0]
    assert helped.decision == "worse"


def test_a_diverged_run_among_many_says_what_survived():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 6), rng.normal(0, 1, 6)
    a[0] = NAN
    (found,) = decide([compare_unpaired(a, b, mode="max")], mode="max", margin=0.1)
    assert found.test == "exact" and found.p_holm == found.comparison.p_exact
    assert found.p_equivalence is None and "diverged" in found.equivalence.note
    assert any("says nothing of those that diverged" in r for r in found.reasons)


@pytest.mark.parametrize("compare", [compare_paired, compare_unpaired])
def test_identical_runs_decide_nothing(compare):
    (found,) = decide([compare([0.5] * 5, [0.5] * 5, mode="max")], mode="max", margin=0.1)
    assert found.decision == "cannot decide" and not found.within_margin
    assert "same value" in found.reasons[0]


@pytest.mark.parametrize(("n", "decision"), [(3, "cannot decide"), (8, "better")])
def test_a_constant_difference_is_left_to_the_exact_test(n, decision):
    x = np.arange(n) / 8
    (found,) = decide([compare_paired(x + 0.5, x, mode="max")], mode="max")
    assert (found.decision, found.low) == (decision, None)
    assert f"all {n} differences are +0.5, without any spread" in found.reasons[0]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([], [], "no runs"),
        ([1.0], [2.0], "one run has no spread"),
        ([NAN] * 3, [NAN] * 3, "every run of both settings diverged"),
    ],
)
def test_nothing_to_decide_from(a, b, words):
    for compare in (compare_paired, compare_unpaired):
        (found,) = decide([compare(a, b, mode="max")], mode="max")
        assert found.decision == "cannot decide" and words in found.reasons[0]


def test_other_grounds_for_no_t_test_are_told_as_their_note():
    """As where seeds share streams in a way that no interval heeds."""
    crossed = replace(TEMPLATE, se=None, degrees=None, p=None, p_exact=1.0, smallest_p=1.0, note="seeds share streams")
    (found,) = decide([crossed], mode="max")
    assert found.reasons == ("Cannot decide at 5 seeds: seeds share streams, and no test can tell.",)
    nothing = replace(compare_paired([], [], mode="max"), note="a scheduler stopped trainings early")
    assert decide([nothing], mode="max")[0].reasons == ("Cannot decide: a scheduler stopped trainings early.",)
    beside = decide([replace(contrast(9.0, 1.0), smallest_p=1.0)], mode="max")[0]
    assert beside.decision == "better" and len(beside.reasons) == 1


def test_the_exact_test_beside_is_heard():
    x = np.arange(5) / 8
    out_of_reach = decide([compare_paired(x + np.array([1.0, 1.1, 0.9, 1, 1.05]), x, mode="max")], mode="max")[0]
    assert out_of_reach.decision == "better"
    assert "cannot confirm it: the smallest p it can give here is 0.0625, where at most 0.05" in out_of_reach.reasons[1]
    against = decide([replace(contrast(3.5, 1.0), p_exact=0.09, smallest_p=0.001)], mode="max")[0]
    assert against.decision == "better" and "does not confirm it: p = 0.09" in against.reasons[1]
    outlier = compare_paired(np.arange(10) + np.array([1.0] * 4 + [1.1] * 5 + [60.0]), np.arange(10), mode="max")
    alone = decide([outlier], mode="max")[0]
    assert alone.decision == "no decision" and "would decide (p = 0.00195)" in " ".join(alone.reasons)
    agreed = decide([replace(contrast(9.0, 1.0), p_exact=0.004, smallest_p=0.002)], mode="max")[0]
    assert len(agreed.reasons) == 1


def test_two_seeds_are_not_sold_as_certainty():
    (found,) = decide([compare_unpaired([1.0, 1.001], [0.0, 0.001], mode="max")], mode="max")
    assert any("2 seeds" in r for r in found.reasons)


def test_sentences_as_they_read():
    found = decide([contrast(10.0, 1.0), contrast(1.0, 1.0), contrast(-0.001, 0.1)], mode="max", margin=1.0)
    assert found[0].reasons[0] == (
        "Better at 5 seeds: the difference lies above 0 and up to +14 "
        "(95 % interval, simultaneous for all 3 contrasts; p = 0.00169 after Holm's correction)."
    )
    assert found[1].reasons[0].startswith("No decision at 5 seeds: the difference lies between −2.5 and +5.0 (95 %")
    assert (
        found[2]
        .reasons[0]
        .startswith(
            "Equivalent at 5 seeds: the difference is shown to lie within ± 1 (two one-sided t tests, p < 0.001 after"
        )
    )


def test_what_is_shown_of_equivalence_is_an_interval_within_the_margin():
    """The simultaneous interval has half the error at each end that a one-sided test has: it may reach beyond."""
    (found,) = decide([contrast(0.2, 0.3)], mode="max", margin=0.9)
    assert found.decision == "equivalent" and found.high > 0.9
    assert found.equivalence.low > -0.9 and found.equivalence.high < 0.9
    first, second = found.reasons[:2]
    assert first.endswith("; their 90 % interval is −0.4 to +0.8.")
    assert second.startswith("The 95 % interval is wider, −0.6 to +1.0, and reaches beyond the margin")
    (inside,) = decide([contrast(0.2, 0.3)], mode="max", margin=1.1)
    assert inside.decision == "equivalent" and "it lies between −0.6 and +1.0" in inside.reasons[0]
    assert len(inside.reasons) == 1


@pytest.mark.parametrize("level", [0.5, 1.0, 95])
def test_levels_that_make_no_sense(level):
    with pytest.raises(ValueError, match="level"):
        decide([contrast(1.0, 1.0)], mode="max", level=level)


# Symmetries

values = st.integers(-64, 64).map(lambda k: k / 8)
groups = st.lists(st.one_of(values, st.just(NAN)), min_size=1, max_size=6)
families = st.lists(st.tuples(groups, groups), min_size=1, max_size=4)


def _verdicts(family, mode="max"):
    return decide([compare_unpaired(a, b, mode=mode) for a, b in family], mode=mode, margin=2.0)


@settings(max_examples=60, deadline=None)
@given(families)
def test_swapping_the_sides_or_the_mode_mirrors_every_verdict(family):
    one = _verdicts(family)
    swapped = _verdicts([(b, a) for a, b in family])
    minus = _verdicts([([-x for x in a], [-x for x in b]) for a, b in family], "min")
    for v, s, m in zip(one, swapped, minus, strict=True):
        assert s.decision == MIRROR.get(v.decision, v.decision)
        assert m.decision == v.decision
        assert s.p_holm == pytest.approx(v.p_holm) and m.p_holm == pytest.approx(v.p_holm)
        if v.low is not None:
            assert (-s.high, -s.low) == pytest.approx((v.low, v.high))
            assert (-m.high, -m.low) == pytest.approx((v.low, v.high))


@settings(max_examples=40, deadline=None)
@given(families, st.integers(-100, 100))
def test_a_shift_of_all_values_changes_no_verdict(family, shift):
    moved = [([x + shift for x in a], [x + shift for x in b]) for a, b in family]
    assert [v.decision for v in _verdicts(moved)] == [v.decision for v in _verdicts(family)]


@settings(max_examples=40, deadline=None)
@given(families, groups, groups)
def test_a_larger_family_decides_no_more_of_its_parts(family, a, b):
    """Adding a contrast can only make the corrected p of the others larger."""
    for v, larger in zip(_verdicts(family), _verdicts([*family, (a, b)]), strict=False):
        assert larger.p_holm >= v.p_holm - 1e-12


anything = st.one_of(st.floats(), st.floats(-1, 1), st.sampled_from([0.0, 0.5, NAN]))


@pytest.mark.filterwarnings("error")
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(anything, anything), max_size=8), st.sampled_from(["max", "min"]))
def test_any_numbers_at_all_give_an_answer(drawn, mode):
    x, y = [pair[0] for pair in drawn], [pair[1] for pair in drawn]
    family = [compare_paired(x, y, mode=mode), compare_unpaired(x, y[:-1], mode=mode)]
    for v in decide(family, mode=mode, margin=0.1):
        c = v.comparison
        for number in (c.difference, c.sd, c.se, c.degrees, c.low, c.high, c.p, v.low, v.high):
            assert number is None or math.isfinite(number)
        assert 0 < c.smallest_p <= c.p_exact <= 1 and v.p_holm <= 1
        assert v.reasons and not any("nan" in r or "inf" in r for r in v.reasons)
