"""Rates learnt from jobs: known starts and paces, found again."""

import math

import numpy as np
import pytest

from headstart.recommend import cost
from headstart.recommend.rates import UNKNOWN, Rates, learn
from headstart.recommend.timings import CACHED, FRESH, Kind, Length, Stop, Timing, Work

FULL = Kind("finetune", "full")
LORA = Kind("finetune", "lora")
CPU, GPU = "CPU (x, 2 threads)", "NVIDIA H100"
START, RATE = 2.0, 1e12


def job(operations: float, seconds: float, kind: Kind = FULL, device: str = CPU) -> Work:
    return Work(kind, device, "bfloat16", operations, seconds)


def told(operations: float, *, slower: float = 1.0, kind: Kind = FULL, device: str = CPU) -> Work:
    return job(operations, START + slower * operations / RATE, kind, device)


def several(count: int, **changes: float) -> tuple[Work, ...]:
    return tuple(told(operations, **changes) for operations in np.geomspace(1e11, 1e14, count))


def test_a_start_and_a_pace_are_found_again() -> None:
    line = Rates(several(40)).line(FULL)
    assert line.rate.start == pytest.approx(START, rel=0.1)
    assert line.rate.flops_per_second == pytest.approx(RATE, rel=0.05)
    assert (line.device, line.basis) == (CPU, "measured")


def test_the_parts_of_few_finetunes_tell_both() -> None:
    parts = []
    for operations in (1e12, 3e13):
        parts += [job(operations, operations / RATE)._replace(started=False), job(0.1, START)]
    line = Rates(tuple(parts)).line(FULL)
    assert line.rate.flops_per_second == pytest.approx(RATE, rel=0.2)
    assert line.rate.start == pytest.approx(START, rel=0.4)


def test_with_nothing_on_record_it_is_what_is_assumed_within_a_factor_of_many() -> None:
    line = UNKNOWN.line(FULL)
    seconds, low, high = line.seconds(1e15)
    assert seconds == pytest.approx(cost.START + 1e15 / cost.ASSUMED_RATE)
    assert low < seconds / 3 < 3 * seconds < high
    assert (line.basis, line.device) == ("assumed", "")


def test_the_interval_narrows_with_jobs_and_never_to_nothing() -> None:
    widths = []
    for count in (1, 4, 16, 64):
        _, low, high = Rates(several(count)).line(FULL).seconds(1e13)
        widths.append(math.log(high / low))
    assert widths == sorted(widths, reverse=True)
    assert 0.1 < widths[-1] < 0.4
    assert widths[0] > 0.8


@pytest.mark.parametrize("count", [2, 10, 40])
def test_four_of_five_jobs_lie_in_their_interval(count: int) -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        true = np.array([START, 1 / RATE]) * np.exp(rng.standard_normal(2))
        operations = 10 ** rng.uniform(11, 14, count + 1)
        seconds = (true[0] + true[1] * operations) * np.exp(0.3 * rng.standard_normal(count + 1))
        works = tuple(map(job, operations[1:].tolist(), seconds[1:].tolist()))
        _, low, high = Rates(works).line(FULL).seconds(float(operations[0]))
        inside.append(low <= seconds[0] <= high)
    assert 0.7 <= np.mean(inside) <= 0.97


def test_one_odd_job_moves_little() -> None:
    usual, *_ = Rates(several(12)).line(FULL).seconds(1e13)
    hung = job(1e13, 5_000.0)
    seconds, *_ = Rates((hung, *several(12))).line(FULL).seconds(1e13)
    assert seconds == pytest.approx(usual, rel=0.25)


def test_newer_jobs_outweigh_older_ones() -> None:
    new, old = several(40, slower=4.0), several(400)
    seconds, *_ = Rates((*new, *old)).line(FULL).seconds(1e14)
    assert seconds == pytest.approx(START + 400, rel=0.25)


def test_a_price_is_for_the_device_that_recent_jobs_ran_on() -> None:
    fast = tuple(told(1e13, slower=0.01, device=GPU) for _ in range(20))
    slow = several(20)
    assert Rates((*fast, *slow)).line(FULL).device == GPU
    line = Rates((*slow, *fast)).line(FULL)
    assert line.device == CPU
    assert line.rate.flops_per_second == pytest.approx(RATE, rel=0.1)


def test_a_device_is_that_of_the_method_where_it_ran() -> None:
    probes = tuple(told(1e12, kind=Kind("logme", FRESH)) for _ in range(30))
    finetunes = tuple(told(1e13, device=GPU) for _ in range(5))
    rates = Rates((*probes, *finetunes))
    assert rates.line(FULL).device == GPU
    assert rates.line(Kind("logme", FRESH)).device == CPU
    assert rates.line(Kind("knn", FRESH)).device == CPU


def test_other_kinds_tell_a_little_and_are_no_measurement() -> None:
    rates = Rates(several(30))
    own, other = rates.line(FULL), rates.line(LORA)
    assert (own.basis, other.basis) == ("measured", "assumed")
    assert other.device == CPU
    seconds, low, high = other.seconds(1e13)
    assert seconds == pytest.approx(START + 10, rel=0.5)
    assert high / low > 2 * own.seconds(1e13)[2] / own.seconds(1e13)[1]


def test_cached_probes_do_not_time_fresh_ones() -> None:
    cached = tuple(job(1e13, 0.5, Kind("logme", CACHED)) for _ in range(30))
    assert Rates(cached).line(Kind("logme", FRESH)).basis == "assumed"
    assert Rates(cached).line(Kind("logme", CACHED)).seconds(1e13)[0] == pytest.approx(0.5, rel=0.3)


def test_numbers_of_another_width_count_less() -> None:
    wide = tuple(one._replace(dtype="float32") for one in several(20, slower=3.0))
    rates = Rates((*several(20), *wide))
    narrow, *_ = rates.line(FULL, "bfloat16").seconds(1e14)
    slow, *_ = rates.line(FULL, "float32").seconds(1e14)
    assert narrow == pytest.approx(START + 100, rel=0.35)
    assert slow == pytest.approx(START + 300, rel=0.35)
    assert rates.line(FULL).seconds(1e14)[0] == narrow  # those of the newest


@pytest.mark.parametrize("operations", [0.0, 1e-300, 1e30])
def test_any_amount_has_a_finite_price(operations: float) -> None:
    for rates in (UNKNOWN, Rates(several(3)), Rates((job(0.0, 1e-6), job(1e30, 1e9)))):
        found = rates.line(FULL).seconds(operations, 1.0)
        assert np.isfinite(found).all()
        assert 0 < found[1] <= found[0] <= found[2]


def test_the_same_jobs_give_the_same_line_to_the_bit() -> None:
    once, again = (Rates(several(9)).line(FULL).seconds(1e12) for _ in range(2))
    assert once == again


# -- rows and epochs


def test_tokens_are_those_that_jobs_found_under_this_cut() -> None:
    cut, whole = Length(3, 50.0, 64, 0.4), Length(3, 90.0, 256, 0.0)
    rates = Rates(lengths={3: (cut, whole)})
    assert rates.tokens(3, 64) == 50.0
    assert rates.tokens(3, 256) == 90.0
    assert rates.tokens(3, 512) == 90.0  # nothing was cut at 256
    assert rates.tokens(3, 32) is None
    assert rates.tokens(4, 64) is None


def test_epochs_are_those_after_which_others_stopped() -> None:
    assert UNKNOWN.epochs(1, 4, 10) == pytest.approx(cost.EPOCHS)
    few = Rates(stops=tuple(Stop(1, 4.0, early=True) for _ in range(100)))
    assert few.epochs(1, 4, 10) == pytest.approx(4.0, rel=0.1)
    assert few.epochs(2, 4, 10) == pytest.approx(4.5, rel=0.1)  # of other targets
    assert few.epochs(1, 4, 3) == 3  # it cannot stop before its end
    assert few.epochs(1, 6, 10) == 6  # nor before its patience is over
    whole = Rates(stops=tuple(Stop(1, 3.0, early=False) for _ in range(100)))
    assert whole.epochs(1, 2, 3) == 3
    assert whole.epochs(1, 4, 10) == pytest.approx(cost.EPOCHS)  # they would have gone on


def test_scores_are_learnt_from_newest_first() -> None:
    facts = {"seconds": 4.0, "tokens": 100, "rows": {"train": 10}, "max_tokens": 64, "device": CPU}
    found = learn([Timing(9, "logme", {}, 10, 1, facts), Timing(4, "logme", {}, 10, 1, {})])
    assert found.newest == 9
    assert [one.seconds for one in found.works] == [4.0]
    assert found.lengths == {1: (Length(1, 10.0, 64, 0.0),)}
    assert learn([]) == UNKNOWN
