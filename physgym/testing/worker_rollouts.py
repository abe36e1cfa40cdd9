"""Rules for the rollouts of a worker: episodes with its own actions, whose samples make a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym import spaces as walk
from physgym.protocol.messages import Rollout, RolloutResult
from physgym.spaces import Array
from physgym.testing.comparing import require, same_bits
from physgym.testing.dialled_programs import ParentEnd
from physgym.testing.worker_rules import SEED, WorkerRules, are_near

LONGEST = 12  # steps of an episode
WHOLE = 120  # steps of an episode that is run to its own end
SEEDS = (SEED, SEED + 1, 2**62)


@dataclass
class RolledEpisode:
    """An episode of a rollout, from all parts that name it.

    Attributes:
        steps: Number of each sample's step.
        samples: The samples, one array per field.
        rewards: Of each step, where they are reported.
        parameters: Its parameters; None where none came.
        ended: What the worker said of its end.
    """

    steps: list[int] = field(default_factory=list)
    samples: list[list[Array]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    parameters: list[Array] | None = None
    ended: list[Any] | None = None

    def is_same(self, other: RolledEpisode) -> bool:
        """Return whether samples and parameters are equal to the bit."""
        one, two = ([values for sample in episode.samples for values in sample] for episode in (self, other))
        one, two = one + (self.parameters or []), two + (other.parameters or [])
        alike = len(one) == len(two) and all(map(same_bits, one, two))
        return alike and self.steps == other.steps and (self.ended or [])[1:] == (other.ended or [])[1:]


class RolloutRules(WorkerRules):
    """Rules for Rollout, where there are sample fields."""

    def test_a_rollout_gives_each_episode_once(self) -> None:
        """Check that each episode ends once, with all of its samples in order."""
        with self.asked() as link:
            found = self._episodes(link, [[4, SEED], [0, SEED + 1], [2, SEED + 2]])
            require(set(found) == {0, 2, 4}, f"expected the episodes 0, 2 and 4; {sorted(found)} came")
            for number, one in found.items():
                require(one.ended is not None, f"expected that episode {number} ends; it does not")
                _, steps, kept, reward, rejected, *_ = one.ended or [0] * 5
                require(
                    kept == len(one.steps) and steps == kept + len(rejected),
                    f"expected {kept} samples of {steps} steps, as ended says; {len(one.steps)} came",
                )
                expected = [step for step in range(steps) if step not in rejected]
                require(one.steps == expected, f"expected samples of the steps {expected}; {one.steps} came")
                require(steps <= LONGEST, f"expected at most {LONGEST} steps (max_steps); {steps} came")
                require(np.isfinite(reward), f"expected a finite sum of rewards; {reward} came")

    def test_an_episode_depends_on_its_seed_alone(self) -> None:
        """Check that episodes come again to the bit, in another order, environment and rollout."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            first = self._episodes(link, [[i, seed] for i, seed in enumerate(SEEDS)])
            other = self._episodes(link, [[i + 1, seed] for i, seed in enumerate(SEEDS)][::-1])
            for i, seed in enumerate(SEEDS):
                require(
                    first[i].is_same(other[i + 1]),
                    f"expected the same episode of seed {seed} as index {i} and as index {i + 1}; they differ",
                )

    def test_other_seeds_are_other_episodes(self) -> None:
        """Check that not all episodes are the same; where they are, nothing may depend on the seed."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            found = self._episodes(link, [[i, SEED + i] for i in range(6)])
            if all(found[0].is_same(one) for one in found.values()):
                self.skip("the episodes of six seeds are equal: nothing in them seems to be drawn")

    def test_a_rollout_is_what_its_actions_give_step_by_step(self) -> None:
        """Check that the actions of a rollout, found among its samples, give the same rewards and end by Step."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            self._needs_samples(link)
            count = link.agreed.count
            own = link.ready.description["max_episode_steps"]
            longest = own + 1 if own is not None and own <= WHOLE else LONGEST
            one = self._episodes(link, [[0, SEED]], longest, reports=True)[0]
            leaves, names = link.agreed.action_leaves, list(link.agreed.sample_spec or {})
            fits = [
                place
                for place, name in enumerate(names)
                if len(leaves) == 1
                and (link.agreed.sample_spec[name].shape, link.agreed.sample_spec[name].dtype)
                == (leaves[0].shape, leaves[0].dtype)
            ]
            if not fits or len(one.steps) != (one.ended or [0, 0])[1]:
                self.skip("no field of the samples is of the form of an action, or steps were rejected")
            found: list[tuple[list[float], str]] = []
            for place in fits:
                self.reset(link, [SEED] * count)
                actions = [walk.unflatten(link.agreed.action_space, iter([sample[place]])) for sample in one.samples]
                rows = [self.step(link, [action], [0])[0] for action in actions]
                how = "terminated" if rows[-1].terminated else "truncated" if rows[-1].truncated else "cut"
                found.append(([row.reward for row in rows], how))
            alike = [how for rewards, how in found if same_bits(np.array(one.rewards), np.array(rewards))]
            require(
                bool(alike),
                f"expected the rewards {one.rewards} of the rollout by Reset and Step with its actions; "
                f"{[rewards for rewards, _ in found]} came. Draw actions from another generator than the simulation",
            )
            said = (one.ended or [])[5:]
            require(
                not said or said[0] in alike,
                f"expected the end {said} of the rollout, of at most {longest} steps, by Reset and Step; {alike} came",
            )

    def test_an_output_that_feeds_an_input_is_it_in_the_next_sample(self) -> None:
        """Check that what the fields declare as fed back is what the next sample of an episode begins with."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            spec = self._needs_samples(link).sample_spec
            names = list(spec)
            fed = [field for field in spec.values() if field.feeds in spec and field.feeds != field.name]
            if not fed:
                self.skip("no field of the samples declares that it feeds another one")
            for number, one in self._episodes(link, [[i, seed] for i, seed in enumerate(SEEDS)]).items():
                for place in (i for i in range(1, len(one.steps)) if one.steps[i] == one.steps[i - 1] + 1):
                    for field in fed:
                        out = one.samples[place - 1][names.index(field.name)]
                        came = one.samples[place][names.index(field.feeds)]
                        require(
                            are_near(out, came),
                            f"expected {field.name!r} of a step as {field.feeds!r} of the next one, which it feeds: "
                            f"{out}; {came} came (episode {number}, step {one.steps[place]})",
                        )

    def test_steps_are_reported_where_that_is_asked_for(self) -> None:
        """Check the reports of steps, and that they change no sample."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            plain = self._episodes(link, [[0, SEED]])[0]
            reported = self._episodes(link, [[0, SEED]], reports=True)[0]
            require(plain.is_same(reported), "expected the same samples with reports and without; they differ")
            total, expected = sum(reported.rewards), (reported.ended or [0.0] * 4)[3]
            require(
                bool(np.isclose(total, expected)),
                f"expected rewards whose sum is {expected}, as ended says; {total} came",
            )

    def test_a_limit_ends_a_rollout_and_another_one_goes_on(self) -> None:
        """Check that no more samples are made than wanted, and that two rollouts give what one does."""
        with self.asked() as link:
            self.skip_in_real_time(link)
            episodes = [[i, seed] for i, seed in enumerate(SEEDS)]
            whole = self._episodes(link, episodes)
            if any(len(one.steps) != (one.ended or [0, 0])[1] for one in whole.values()):
                self.skip("steps were rejected")
            number = len(whole[0].steps) + max(1, len(whole[1].steps) // 2)
            made = self._made(link)
            first = self._episodes(link, episodes, limit=number, made=made)
            came = sum(len(one.steps) for one in first.values())
            require(came == number, f"expected {number} samples (limit); {came} came")
            rest = [entry for entry in episodes if entry[0] not in first or first[entry[0]].ended is None]
            goes_on = bool(rest) and rest[0][0] in first
            second = self._episodes(link, rest, goes_on=goes_on)
            for i, one in whole.items():
                early, late = first.get(i, RolledEpisode()), second.get(i, RolledEpisode())
                new = [place for place, step in enumerate(late.steps) if step not in early.steps]
                joined = RolledEpisode(
                    early.steps + [late.steps[place] for place in new],
                    early.samples + [late.samples[place] for place in new],
                    parameters=early.parameters or late.parameters,
                    ended=late.ended or early.ended,
                )
                require(
                    one.is_same(joined),
                    f"expected of episode {i} in two rollouts, with goes_on {goes_on}, what it is in one: steps "
                    f"{one.steps}, ended {one.ended}; {joined.steps}, {joined.ended} came",
                )

    def test_parameters_are_those_that_were_given(self) -> None:
        """Check that episodes begin with the parameters in their options, and report them."""
        with self.asked() as link:
            space = self._needs_samples(link).parameter_space
            if space is None:
                self.skip("the environment declares no parameters")
            space.seed(SEED)
            for number in range(3):
                given = space.sample()
                one = self._episodes(link, [[number, SEED, {"parameters": given}]])[number]
                wanted = [np.asarray(value) for value in walk.flatten(space, given)]
                require(
                    one.parameters is not None, "expected the parameters of an episode with its first sample; none came"
                )
                require(
                    all(np.array_equal(a, b) for a, b in zip(wanted, one.parameters or [], strict=True)),
                    f"expected the parameters {wanted} that were given; {one.parameters} came",
                )

    def _needs_samples(self, link: ParentEnd) -> Any:
        if link.agreed.sample_spec is None:
            self.skip("the environment declares no samples")
        return link.agreed

    def _made(self, link: ParentEnd) -> int:
        """Return how many samples came in all rollouts."""
        return int(link.channel.connection.ledger.samples)

    def _episodes(
        self, link: ParentEnd, entries: Sequence[list[Any]], longest: int = LONGEST, **options: Any
    ) -> dict[int, RolledEpisode]:
        """Return the episodes of a rollout."""
        agreed = self._needs_samples(link)
        found: dict[int, RolledEpisode] = {}
        for part in link.answers(Rollout(list(entries), longest, 10, **{"nonfinite": "allow", **options})):
            assert isinstance(part, RolloutResult)
            self._take(found, part, list(agreed.sample_spec))
        if agreed.parameter_space is not None and not options.get("goes_on"):
            lacking = [i for i, one in found.items() if one.parameters is None]
            require(not lacking, f"expected the parameters of each episode; those of {lacking} did not come")
        return found

    def _take(self, found: dict[int, RolledEpisode], part: RolloutResult, names: list[str]) -> None:
        kept = np.ones(len(part.steps), np.bool_) if part.reports is None else part.reports.accepted
        places = np.cumsum(kept) - 1
        for place, (number, step) in enumerate(zip(part.episodes.tolist(), part.steps.tolist(), strict=True)):
            one = found.setdefault(number, RolledEpisode())
            if kept[place]:
                one.steps.append(step)
                one.samples.append([part.samples[name][places[place]].copy() for name in names])
            if part.reports is not None:
                one.rewards.append(float(part.reports.rewards[place]))
        if part.parameters is not None:
            for place, number in enumerate(part.parameters.episodes.tolist()):
                one = found.setdefault(number, RolledEpisode())
                one.parameters = [values[place].copy() for values in part.parameters.values.values()]
        for entry in part.ended:
            found.setdefault(entry[0], RolledEpisode()).ended = entry
