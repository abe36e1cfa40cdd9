"""Rules for resets, steps and calls of a worker."""

from __future__ import annotations

from typing import Any

import numpy as np

from physgym import spaces as walk
from physgym.protocol.messages import Assignment, Call, CallResult, Failure
from physgym.protocol.msgpack_values import encode_value
from physgym.testing.comparing import require
from physgym.testing.dialled_programs import assignment
from physgym.testing.worker_rules import (
    SEED,
    Row,
    WorkerRules,
    are_near,
    observation_of,
    rows_of,
    same_values,
    step_request,
)

STEPS = 8  # of short runs
LONGEST = 3000  # steps until the end of an episode is waited for no longer
NO_NAME = "there_is_no_such_name"
# by kind of dtype: those as which actions come in its place
_OTHERS = {
    "f": (np.dtype("<f8"), np.dtype("<f4")),
    "i": (np.dtype("<i8"), np.dtype("<i4")),
    "u": (np.dtype("<i8"),),
}


class SteppingRules(WorkerRules):
    """Rules for Reset, Step and Call."""

    def test_a_reset_begins_episodes(self) -> None:
        """Check observations, rewards and flags after a reset, and the parameters where there are some."""
        with self.asked() as link:
            for row, one in self.reset(link, [SEED] * link.agreed.count).items():
                self._begins(link, row, one, "after Reset")

    def test_a_seed_gives_the_same_episode_again(self) -> None:
        """Check that two episodes of a seed and the same actions are equal to the bit."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            same_runs(self.run(link, SEED, STEPS), self.run(link, SEED, STEPS), "the same seed and actions")

    def test_seeds_may_be_large(self) -> None:
        """Check the least and the largest seeds that physgym derives, and that no two of them become one."""
        with self.asked() as link:

            def begun(seed: int) -> bytes:
                one = self.reset(link, [seed] * link.agreed.count)[0]
                return encode_value([one.observation, one.info.get("parameters")])

            for seed in (0, 2**31, 2**32, 2**63 - 1):
                begun(seed)
            if len({begun(SEED + i) for i in range(6)}) < 6:
                return  # beginnings of other seeds are equal
            for seed in (2**53, 2**63 - 2):
                require(
                    begun(seed) != begun(seed + 1),
                    f"expected other beginnings of the seeds {seed} and {seed + 1}; they are equal, as where a seed is "
                    "rounded to a double",
                )

    def test_a_reset_without_a_seed_works(self) -> None:
        """Check that the seed may be nil."""
        with self.asked() as link:
            self.reset(link, [None] * link.agreed.count)

    def test_a_reset_takes_the_parameters_that_it_is_given(self) -> None:
        """Check that episodes begin with the parameters in the options of a Reset, and name them."""
        with self.asked() as link:
            space = link.agreed.parameter_space
            if space is None:
                self.skip("the environment declares no parameters")
            space.seed(SEED)
            for _ in range(3):
                given = space.sample()
                begun = self.reset(link, [SEED] * link.agreed.count, options={"parameters": given})
                for row, one in begun.items():
                    self._begins(link, row, one, "after Reset")
                    pairs = zip(walk.flatten(space, given), walk.flatten(space, one.info["parameters"]), strict=True)
                    require(
                        all(np.array_equal(wanted, came) for wanted, came in pairs),
                        f"expected the parameters {given} that a Reset gave; {one.info['parameters']} came",
                    )

    def test_a_step_gives_what_the_spaces_say(self) -> None:
        """Check that observations are elements of their space, and flags and rewards are there."""
        with self.asked() as link:
            for rows in self.run(link, SEED, STEPS):
                for row, one in rows.items():
                    require_observation(link, row, one)

    def test_environments_do_not_depend_on_each_other(self) -> None:
        """Check that a mask and a step of some rows leave the others as they are."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            count = self.several(link)
            together = self.run(link, SEED, 2)
            first, second = self.actions(link, 2)
            self.reset(link, [SEED + i for i in range(count)])
            order = list(reversed(range(count)))
            stepped = self.step(link, [first[i] for i in order], order)
            same_runs([together[1]], [stepped], "a step of the rows in another order")
            self.reset(link, [SEED, *[None] * (count - 1)], [True, *[False] * (count - 1)])
            rest = order[:-1]
            stepped = self.step(link, [second[i] for i in rest], rest)
            expected = {row: together[2][row] for row in rest}
            same_runs([expected], [stepped], "a step of those that the mask of a Reset leaves out")
            same_runs([{0: together[1][0]}], [self.step(link, [first[0]], [0])], "the first step after a Reset by mask")

    def test_a_step_may_be_asked_for_in_parts(self) -> None:
        """Check that flag 1 of Step changes nothing but the number of parts."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            expected = self.run(link, SEED, 1)
            self.reset(link, [SEED + i for i in range(link.agreed.count)])
            (actions,) = self.actions(link, 1)
            rows = list(range(link.agreed.count))
            same_runs([expected[1]], [self.step(link, actions, rows, stream=True)], "a step in parts")

    def test_actions_may_be_of_another_dtype(self) -> None:
        """Check that actions which come in place of those of the batch count, where they are not refused."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            seeds = [SEED + i for i in range(link.agreed.count)]
            (actions,) = self.actions(link, 1)
            leaves = link.agreed.action_leaves
            fixed = [place for place, leaf in enumerate(leaves) if not leaf.variable and leaf.dtype.kind in _OTHERS]
            if not fixed:
                self.skip("no part of an action is an array of numbers")
            for number, place in enumerate(fixed):
                request = step_request(link, actions)
                assert request.actions is not None
                batch, dtype = request.actions[number], leaves[place].dtype
                other = next(one for one in _OTHERS[dtype.kind] if one != dtype)
                instead = batch.astype(other)
                batch[:] = instead  # what both of them hold
                self.reset(link, seeds)
                expected = rows_of(link, link.answers(request))
                batch[:] = 0
                objects: list[Any] = request.objects or [None] * len(leaves)
                objects[place] = instead
                self.reset(link, seeds)
                parts = link.ask(type(request)(0, None, request.actions, objects))
                found = {} if isinstance(parts[0], Failure) else rows_of(link, parts)  # which may refuse them
                for row, one in expected.items():
                    _same_but_for_rounding(row, one, found.get(row), f"actions as {other} in place of {dtype}")

    def test_actions_that_make_no_sense_do_no_harm(self) -> None:
        """Check that values that are no actions are for the environment to judge, and the next reset works."""
        with self.asked() as link:
            count = link.agreed.count
            self.reset(link, [SEED] * count)
            (actions,) = self.actions(link, 1)
            request = step_request(link, actions)
            for place in range(len(link.agreed.action_leaves)):
                objects: list[Any] = [None] * len(link.agreed.action_leaves)
                objects[place] = ["no action"] * count
                parts = link.ask(type(request)(0, None, request.actions, objects))
                require(bool(parts), "expected an answer to actions that are texts")
            self.reset(link, [SEED] * count)

    def test_next_step_resets_in_the_step_after_the_end(self) -> None:
        """Check autoreset by NEXT_STEP."""
        with self.asked() as link:
            row, _ = self._until_end(link)
            (actions,) = self.actions(link, 1)
            self._begins(link, row, self.step(link, actions)[row], "in the step after the end, with NEXT_STEP,")

    def test_same_step_resets_at_once(self) -> None:
        """Check autoreset by SAME_STEP: flags and reward are those of the end, and the info has what it observed."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            row, expected = self._until_end(link)
        with self.ready("SAME_STEP") as (_, link):
            trace = self.run(link, SEED, len(expected) - 1)
            same_runs(
                [{row: rows[row]} for rows in expected[:-1]],
                [{row: rows[row]} for rows in trace[:-1]],
                "another autoreset mode",
            )
            last, end = trace[-1][row], expected[-1][row]
            require(last[1:4] == end[1:4], f"expected reward and flags {end[1:4]} of the end; {last[1:4]} came")
            for key in ("final_obs", "final_info"):
                require(key in last.info, f"expected {key} in the info of a step with SAME_STEP; {set(last.info)} came")
            final = walk.flatten(link.agreed.observation_space, last.info["final_obs"])
            require(
                same_values(final, end.observation),
                f"expected the last observation {end.observation} as final_obs; {final} came",
            )
            require_observation(link, row, last)

    def test_disabled_fails_in_a_step_after_the_end(self) -> None:
        """Check that without autoreset a step after the end is a failure of its environment, and a reset helps."""
        with self.ready("DISABLED") as (_, link):
            row, _ = self._until_end(link)
            (actions,) = self.actions(link, 1)
            parts = link.ask(step_request(link, [actions[row]], [row]))
            failed = parts[0] if isinstance(parts[0], Failure) else rows_of(link, parts)[row]
            require(isinstance(failed, Failure), f"expected a failure of the step after the end; {failed} came")
            self.reset(link, [SEED] * link.agreed.count)

    def test_it_takes_the_place_of_one_that_was_lost(self) -> None:
        """Check the first step and reset of a worker that gets seeds with its environments."""
        count = self.count
        with self.asked() as link:
            self.skip_in_real_time(link)
            seeds = [SEED + i for i in range(count)]
            expected = self.reset(link, seeds)
        wanted = assignment(self.env, dict(self.arguments), count)
        with self.started(count if count > 1 else 0) as (_, link):
            link.welcomed()
            link.send(Assignment({**wanted.start, "seeds": seeds}, wanted.environments))
            answer = link.next("Ready, or a Failure")
            if isinstance(answer, Failure):
                self.skip(f"it does not: {answer.message}")
            (actions,) = self.actions(link, 1)
            parts = link.answers(step_request(link, actions))
            cut = sorted(row for part in parts for row in part.cut)
            require(cut == list(range(count)), f"expected that the first step cuts all {count} episodes; {cut} came")
            for row, one in rows_of(link, parts).items():
                assert isinstance(one, Row)
                fits = one[1:4] == (0.0, False, True) and one.info.get("worker_restarted") is True
                require(fits, f"expected a truncated row of reward 0, and worker_restarted; {row}: {one[1:]} came")
            same_runs([expected], [self.step(link, actions)], "the next step, which resets with the seeds")

    def test_calls_are_answered(self) -> None:
        """Check what a parent calls by itself: attributes that there are or not, and the scene."""
        with self.asked() as link:
            count = link.agreed.count
            for name in ("constants", "step_seconds", NO_NAME):
                for has in self._called(link, Call("call", "has_wrapper_attr", [name]), count):
                    require(has is True or has is False, f"expected whether there is {name!r}; {has!r} came")
            for scene in self._called(link, Call("scene"), count):
                fits = isinstance(scene, dict) and "scene" in scene and isinstance(scene.get("scene_problem", ""), str)
                require(fits, f"expected a map with scene, and maybe scene_problem; {scene!r:.300} came")
            self._called(link, Call("call", "has_wrapper_attr", ["constants"], rows=[count - 1]), 1)
            if link.ready.description["render_mode"] is None:
                (answer,) = link.ask(Call("render"))
                fits = isinstance(answer, CallResult) and answer.results == [None] * count
                own = isinstance(answer, Failure) and answer.error != "builtins:AttributeError"  # that of a simulation
                require(fits or own, f"expected nil to render (render_mode is nil); {answer!r:.300} came")

    def test_a_name_that_nothing_has_is_a_failure(self) -> None:
        """Check that a call of an unknown name is an AttributeError, and the next request is answered."""
        with self.asked() as link:
            (answer,) = link.ask(Call("call", NO_NAME))
            require(isinstance(answer, Failure), f"expected a Failure for the name {NO_NAME}; {answer!r:.200} came")
            error = "builtins:AttributeError"
            require(answer.error == error, f"expected Failure.error {error!r}; {answer.error!r} came")
            self.reset(link, [SEED] * link.agreed.count)

    def _called(self, link: Any, request: Call, number: int) -> list[Any]:
        (answer,) = link.answers(request)
        require(isinstance(answer, CallResult), f"expected CallResult; {type(answer).__name__} came")
        require(len(answer.results) == number, f"expected {number} results of {request}; {len(answer.results)} came")
        return list(answer.results)

    def _until_end(self, link: Any) -> tuple[int, list[dict[int, Row]]]:
        """Run until an episode ends; return in which environment, and what all of them gave; skip without an end."""
        trace = [self.reset(link, [SEED + i for i in range(link.agreed.count)])]
        for actions in self.actions(link, LONGEST):
            trace.append(self.step(link, actions))
            for row, one in trace[-1].items():
                if one.ended:
                    return row, trace
        self.skip(f"no episode ended within {LONGEST} steps")

    def _begins(self, link: Any, row: int, one: Row, when: str) -> None:
        """Check what the beginning of an episode gives."""
        require_observation(link, row, one)
        require(one.reward == 0.0 and not one.ended, f"expected reward 0 and no flag {when}; {one[1:4]} came")
        space = link.agreed.parameter_space
        if space is None:
            return
        given = one.info.get("parameters")
        try:
            fits = len(walk.flatten(space, given)) == len(walk.leaves(space))
        except (KeyError, TypeError, IndexError):
            fits = False
        require(fits, f"expected parameters of {space} in the info {when}; {given!r:.300} came")


def require_observation(link: Any, row: int, one: Row) -> None:
    """Raise AssertionError where an observation is not in its space."""
    space = link.agreed.observation_space
    if walk.is_custom(walk.to_json(space)):
        return
    observation = observation_of(link, one)
    require(space.contains(observation), f"expected an element of {space} of environment {row}; {observation!r} came")


def same_runs(expected: list[dict[int, Row]], found: list[dict[int, Row]], what: str) -> None:
    """Raise AssertionError where two runs differ."""
    for step, (before, now) in enumerate(zip(expected, found, strict=True)):
        for row, one in before.items():
            require(
                row in now and one.is_same(now[row]),
                f"expected the same of {what}: environment {row}, step {step}: {one[:4]}; {now.get(row, ())[:4]} came",
            )


def _same_but_for_rounding(row: int, expected: Row | Failure, found: Row | Failure | None, what: str) -> None:
    """Raise AssertionError where two steps differ by more than arithmetic in another dtype makes them."""
    if not (isinstance(expected, Row) and isinstance(found, Row)):  # an environment may refuse them
        return
    for one, other in zip([*expected.observation, expected.reward], [*found.observation, found.reward], strict=True):
        require(
            are_near(one, other),
            f"expected the same of {what}: environment {row}: {expected[:2]}; {found[:2]} came",
        )
