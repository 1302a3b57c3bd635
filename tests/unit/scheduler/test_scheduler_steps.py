"""Plans and outputs of single situations, on the null device."""

from __future__ import annotations

import numpy as np
import pytest

from hardpoint.contract.errors import QueueFullError, RequestError
from hardpoint.contract.limits import BatchLimits
from hardpoint.params import SamplingParams
from hardpoint.scheduler.accept import judge
from hardpoint.testing.scheduling import Driver, Setup


def greedy(max_tokens: int = 4, **fields) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, **fields)


def limits(tokens: int = 64, rows: int = 8, **fields) -> BatchLimits:
    return BatchLimits(max_tokens=tokens, max_requests=rows, **fields)


def finished(driver: Driver) -> None:
    driver.run()
    driver.verify()
    driver.scheduler.assert_idle()


def chunks(driver: Driver, row: int = 0) -> list[tuple[int, int, bool]]:
    """Return (computed before, tokens, samples) of a row's steps."""
    return [
        (int(plan.num_computed[at]), int(plan.num_tokens[at]), bool(plan.samples[at]))
        for plan in driver.plans
        for at in np.flatnonzero(plan.rows == row).tolist()
    ]


def test_a_prompt_is_computed_in_chunks_and_decodes_go_first():
    driver = Driver(Setup(limits=limits(4)))
    driver.add(range(10), greedy(3))
    finished(driver)
    assert chunks(driver) == [(0, 4, False), (4, 4, False), (8, 2, True), (10, 1, True), (11, 1, True)]
    assert [plan.num_decodes for plan in driver.plans] == [0, 0, 0, 1, 1]


def test_a_threshold_bounds_chunks_and_lets_others_in():
    driver = Driver(Setup(limits=limits(16), threshold=3))
    driver.add(range(9), greedy(2))
    driver.add(range(2), greedy(2))
    finished(driver)
    assert chunks(driver)[:3] == [(0, 3, False), (3, 3, False), (6, 3, True)]
    assert chunks(driver, 1)[0] == (0, 2, True)


def test_running_rows_decode_beside_a_prefill_under_one_budget():
    driver = Driver(Setup(limits=limits(6)))
    driver.add(range(3), greedy(8))
    driver.advance()
    driver.add(range(20, 3, -1), greedy(2))
    driver.advance()
    plan = driver.plans[-1]
    assert (plan.rows.tolist(), plan.num_tokens.tolist(), plan.num_decodes) == ([0, 1], [1, 5], 1)
    finished(driver)


def test_a_row_whose_last_token_is_in_flight_is_not_planned():
    driver = Driver(Setup(depth=2))
    driver.add(range(5), greedy(2))
    finished(driver)
    assert chunks(driver) == [(0, 5, True), (5, 1, True)]


def test_a_stop_found_late_costs_one_dropped_token():
    driver = Driver(Setup(depth=2))
    told = driver.model.generate(range(5), greedy(10), max_model_len=64).tokens
    (handle,) = driver.add(
        range(5), SamplingParams(max_tokens=10, temperature=0.0, stop_token_ids=[told[1]], ignore_eos=True)
    )
    finished(driver)
    heard = driver.told[handle]
    assert heard.tokens == told[: told.index(told[1]) + 1]
    assert (heard.finish.reason, heard.finish.stop) == ("stop", told[1])
    assert sum(sampled for *_rest, sampled in chunks(driver)) == len(heard.tokens) + 1


def test_an_end_token_is_not_named_and_waits_for_min_tokens():
    driver = Driver(Setup())
    (handle,) = driver.add([1], SamplingParams(min_tokens=2, max_tokens=9, stop_token_ids=[0, 7]))
    sequence = driver.scheduler._life.sequences[handle]
    assert judge(sequence, 1, [7]) == (1, None)
    count, finish = judge(sequence, 1, [7, 7, 3])
    assert (count, finish.reason, finish.stop) == (2, "stop", 7)
    assert judge(sequence, 2, [0])[1].stop is None
    assert judge(sequence, 9, [5, 5])[0] == 1
    assert judge(sequence, 9, [5])[1].reason == "length"
    driver.scheduler.abort([handle])
    finished(driver)


def test_a_second_prompt_takes_full_blocks_from_the_cache_but_never_all():
    driver = Driver(Setup())
    prompt = list(range(12))
    driver.add(prompt, greedy())
    finished(driver)
    (again,) = driver.add(prompt, greedy())
    (longer,) = driver.add([*prompt, 20, 21], greedy())
    finished(driver)
    assert (driver.told[again].cached, driver.told[longer].cached) == ([8], [12])
    stats = driver.scheduler.stats()
    assert (stats.prefix_queries, stats.prefix_hits, stats.prompt_tokens) == (38, 20, 38)


def test_prompts_that_start_in_one_step_share_its_blocks():
    driver = Driver(Setup())
    handles = [driver.add(list(range(10)), greedy())[0] for _ in range(3)]
    finished(driver)
    assert [driver.told[handle].cached for handle in handles] == [[0], [8], [8]]
    assert driver.plans[0].num_tokens.tolist() == [10, 2, 2]


def test_generated_blocks_are_found_again():
    driver = Driver(Setup())
    (first,) = driver.add(list(range(6)), greedy(11))
    finished(driver)
    (second,) = driver.add([*range(6), *driver.told[first].tokens], greedy())
    finished(driver)
    # 17 known tokens, the last of which was never computed.
    assert driver.told[second].cached == [16]


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        (greedy(prompt_logprobs=0), {}),
        (greedy(skip_reading_prefix_cache=True), {}),
        (greedy(), {"cache_salt": "other"}),
        (greedy(), {"adapter": "other"}),
    ],
)
def test_who_may_not_read_the_cache(params, fields):
    driver = Driver(Setup())
    driver.add(list(range(12)), greedy())
    finished(driver)
    (handle,) = driver.add(list(range(12)), params, **fields)
    finished(driver)
    assert driver.told[handle].cached == [0]


def test_windows_give_blocks_back_and_hits_need_the_last_window_only():
    driver = Driver(Setup(windows=(5,), num_blocks=8, max_model_len=64))
    (first,) = driver.add(list(range(20)), greedy(20))
    finished(driver)
    assert driver.scheduler.stats().preemptions == 0
    again = [*range(20), *driver.told[first].tokens[:14]]
    (second,) = driver.add(again, greedy())
    driver.advance()
    start = driver.plans[-1].starts[0]
    assert start.num_computed == 32
    assert start.blocks[0][:7].tolist() == [0] * 7
    finished(driver)
    assert driver.told[second].cached == [32]


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("prompt", [1, 4, 5, 8, 11])
def test_forks_share_the_prompt_and_copy_its_last_block(prompt, caching):
    driver = Driver(Setup(caching=caching))
    handles = driver.add(
        list(range(prompt)), SamplingParams(n=3, max_tokens=6, temperature=1.0, seed=5, ignore_eos=True)
    )
    driver.advance()
    assert [plan.num_tokens.tolist() for plan in driver.plans] == [[prompt]]
    driver.advance()
    plan = driver.plans[1]
    assert [start.params.seed for start in plan.starts] == [6, 7]
    assert [start.num_computed for start in plan.starts] == [prompt - 1] * 2
    assert plan.num_tokens.tolist() == [1, 1, 1]
    assert plan.num_decodes == 3
    shared = (prompt - 1) // 4
    assert len(plan.copies) == (2 if (prompt - 1) % 4 else 0)
    tables = driver.scheduler._running.tables.ids[0]
    assert (tables[:3, :shared] == tables[0, :shared]).all()
    assert len(set(tables[:3, shared].tolist())) == 3
    finished(driver)
    assert len({tuple(driver.told[handle].tokens) for handle in handles}) == 3


def test_another_sequence_computes_the_prompt_when_the_first_is_aborted():
    driver = Driver(Setup(limits=limits(3)))
    handles = driver.add(list(range(8)), greedy(n=3))
    driver.advance()
    driver.scheduler.abort(handles[:1])
    finished(driver)
    assert [driver.told[handle].finish.reason for handle in handles] == ["abort", "length", "length"]


def test_seeds_are_drawn_where_none_is_given_and_reproduce():
    def seeds() -> list[int]:
        driver = Driver(Setup())
        for _ in range(3):
            driver.add([1, 2], SamplingParams(max_tokens=1))
        driver.advance()
        return [start.params.seed for start in driver.plans[0].starts]

    assert seeds() == seeds()
    assert len(set(seeds())) == 3


@pytest.mark.parametrize("depth", [1, 2])
def test_aborts_reach_waiting_running_and_forking_sequences(depth):
    driver = Driver(Setup(depth=depth, limits=limits(4, 1)))
    running = driver.add(list(range(8)), greedy(n=2))
    waiting = driver.add([1], greedy())
    driver.advance()
    driver.scheduler.abort([*running, *waiting, 999])
    driver.scheduler.abort(running)
    driver.scheduler.check()
    finished(driver)
    assert all(told.finish.reason == "abort" for told in driver.told.values())


def test_an_abort_without_any_step_is_told():
    driver = Driver(Setup())
    (handle,) = driver.add([1], greedy())
    assert driver.scheduler.take_outputs() is None
    driver.scheduler.abort([handle])
    outputs = driver.scheduler.take_outputs()
    assert [(finish.handle, finish.reason) for finish in outputs.finished] == [(handle, "abort")]
    assert len(outputs.handles) == len(outputs.tokens) == 0
    assert not driver.scheduler.has_work


def test_an_abort_with_two_steps_in_flight_indexes_known_tokens_only():
    driver = Driver(Setup(depth=2))
    scheduler = driver.scheduler
    (handle,) = driver.add(list(range(6)), greedy(20))
    scheduler.schedule()
    plans = [scheduler.schedule(), scheduler.schedule()]
    assert [plan.num_computed.tolist() for plan in plans] == [[6], [7]]
    scheduler.abort([handle])
    # Eight tokens are scheduled and six are known: one block of four.
    assert len(scheduler._running.pool.index[0]) == 1


def test_a_failing_row_ends_alone_and_leaves_nothing_in_the_cache():
    driver = Driver(Setup())
    (bad,) = driver.add(list(range(9)), greedy())
    (good,) = driver.add([20, 21], greedy())
    driver.executor.fail_handles[bad] = "logits are not numbers"
    finished(driver)
    assert (driver.told[bad].finish.reason, driver.told[bad].finish.error) == ("error", "logits are not numbers")
    assert driver.told[good].finish.reason == "length"
    (again,) = driver.add(list(range(9)), greedy())
    finished(driver)
    assert driver.told[again].cached == [0]


@pytest.mark.parametrize("depth", [1, 2])
def test_after_a_failed_step_everything_ends_and_new_requests_run(depth):
    driver = Driver(Setup(depth=depth, limits=limits(8, 2)))
    for _ in range(3):
        driver.add(list(range(9)), greedy(n=2))
    driver.executor.fail_step = 2
    finished(driver)
    assert all(told.finish.error == "step 2 fails as asked" for told in driver.told.values())
    driver.executor.fail_step = None
    (handle,) = driver.add(list(range(9)), greedy())
    finished(driver)
    assert (driver.told[handle].finish.reason, driver.told[handle].cached) == ("length", [0])


def test_a_result_from_before_a_failure_is_ignored():
    driver = Driver(Setup(depth=2))
    driver.add(list(range(4)), greedy())
    plan = driver.scheduler.schedule()
    result = driver.executor.submit(plan).result()
    driver.scheduler.fail_all("gone")
    outputs = driver.scheduler.update(plan, result)
    assert len(outputs.tokens) == 0
    assert [finish.error for finish in outputs.finished] == ["gone"]
    driver.scheduler.assert_idle()


def test_the_last_in_the_policys_order_is_preempted():
    driver = Driver(Setup(policy="priority", num_blocks=9, caching=False, max_model_len=40))
    handles = [driver.add([1, 2, 3], greedy(18), priority=priority)[0] for priority in (1, 2, 0)]
    victims = []
    preempt = driver.scheduler._life.preempt
    driver.scheduler._life.preempt = lambda sequence: (victims.append(sequence.handle), preempt(sequence))
    finished(driver)
    assert victims
    assert victims[0] == handles[1]
    assert handles[2] not in victims


def test_a_prefill_may_preempt_a_row_that_this_step_gave_a_block():
    """The row gets a new block in the very step in which all are taken away again."""
    driver = Driver(Setup(policy="priority", num_blocks=9, caching=False, max_model_len=28, limits=limits(2, 2)))
    driver.add([0, 1, 2, 3], greedy(23), priority=5)
    for _ in range(2):
        driver.advance()
    driver.add(list(range(16)), greedy(3), priority=0)
    finished(driver)
    assert driver.scheduler.stats().preemptions == 1


def test_drafts_are_verified_and_rejected_ones_cost_nothing():
    driver = Driver(Setup(limits=limits(sampled_per_step=4)))
    (handle,) = driver.add(list(range(6)), greedy(12))
    told = driver.told[handle]
    expected = driver.expected(told).tokens
    steps = 0
    while driver.scheduler.has_work:
        ahead = expected[len(told.tokens) :][:3]
        # Every other step proposes a wrong last token.
        driver.scheduler.propose(handle, [*ahead[:-1], 23 - ahead[-1]] if steps % 2 and ahead else ahead)
        driver.advance()
        steps += 1
    driver.verify()
    driver.scheduler.assert_idle()
    assert steps <= 5
    assert max(len(plan.drafts[0]) for plan in driver.plans if plan.drafts is not None) == 3


def test_drafts_for_a_step_in_flight_are_ignored():
    driver = Driver(Setup(depth=2, limits=limits(sampled_per_step=2)))
    (handle,) = driver.add(list(range(6)), greedy(3))
    driver.scheduler.propose(handle, [1])
    driver.scheduler.propose(999, [1])
    finished(driver)
    assert all(plan.drafts is None for plan in driver.plans)


def test_blocks_are_reserved_for_the_lookahead():
    driver = Driver(Setup(limits=limits(lookahead=3, sampled_per_step=4), multi_step=True))
    driver.add(list(range(6)), greedy(17))
    driver.advance()
    # Six prompt tokens and three more.
    assert len(driver.plans[0].starts[0].blocks[0]) == 3
    finished(driver)
    assert len(driver.plans) < 17


def test_outputs_are_arrays_of_the_documented_types():
    driver = Driver(Setup())
    driver.add([1, 2], greedy(logprobs=1, prompt_logprobs=1))
    outputs = driver.advance()
    assert (outputs.handles.dtype, outputs.counts.dtype, outputs.tokens.dtype) == (np.int64, np.int32, np.int32)
    assert [part.handle for part in outputs.logprobs] == [0]
    assert outputs.prompt_logprobs[0].token_ids[:, 0].tolist() == [2]
    assert outputs.cached == [(0, 0)]


def test_the_prefix_cache_can_be_forgotten():
    driver = Driver(Setup())
    driver.add(list(range(9)), greedy())
    driver.advance()
    assert not driver.scheduler.reset_prefix_cache()
    driver.run()
    assert driver.scheduler.reset_prefix_cache()
    (handle,) = driver.add(list(range(9)), greedy())
    finished(driver)
    assert driver.told[handle].cached == [0]


@pytest.mark.parametrize(
    ("setup", "prompt", "params", "text"),
    [
        (Setup(max_model_len=10), range(10), greedy(), r"10 tokens and max_model_len is 10"),
        (Setup(), [], greedy(), "prompt is empty"),
        (Setup(), [1], greedy(stop_token_ids=[24]), r"stop_token_ids has 24; ids are from 0 to 23"),
        (
            Setup(num_blocks=8),
            range(20),
            greedy(20),
            r"20 prompt tokens with max_tokens=20 need 10 cache blocks .* has 7",
        ),
        (
            Setup(chunked=False, limits=limits(16)),
            range(10),
            greedy(10),
            r"may need 19 tokens in one step, which holds 16",
        ),
        (Setup(limits=limits(token_area=16)), range(10), greedy(10), r"context of 19 tokens; the platform takes 16"),
    ],
)
def test_requests_that_can_never_run_are_refused_with_numbers(setup, prompt, params, text):
    driver = Driver(setup)
    with pytest.raises(RequestError, match=text):
        driver.add(list(prompt), params)
    driver.scheduler.assert_idle()
    driver.add([1, 2], greedy(2))
    finished(driver)


def test_the_largest_request_that_is_accepted_runs_alone():
    for windows in ((None,), (None, 5), (5, 3)):
        accepted = 0
        for max_tokens in range(1, 60):
            driver = Driver(Setup(num_blocks=12, windows=windows, max_model_len=100))
            try:
                driver.add(list(range(20)), greedy(max_tokens))
            except RequestError:
                continue
            accepted = max_tokens
            finished(driver)
        assert accepted


def test_handles_must_be_new_and_as_many_as_sequences():
    driver = Driver(Setup())
    driver.add([1], greedy())
    driver._handle = 0
    with pytest.raises(RequestError, match="handle 0 is in use"):
        driver.add([1], greedy())
    driver.run()


def test_a_full_queue_refuses_but_free_rows_are_no_queue():
    driver = Driver(Setup(max_waiting=1, limits=limits(rows=2)))
    for _ in range(3):
        driver.add([1, 2], greedy())
    with pytest.raises(QueueFullError, match=r"3 sequences wait and 0 run; max_waiting is 1"):
        driver.add([1, 2], greedy())
    driver.advance()
    with pytest.raises(QueueFullError):
        driver.add([1, 2], greedy())
    driver.run()
    driver.add([1, 2], greedy())
    finished(driver)
