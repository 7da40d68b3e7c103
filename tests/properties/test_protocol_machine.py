"""Whatever coordinators and hospitals do, and in whatever order, the protocol's promises hold.

Three to eight real sessions, and a coordinator that is honest at one moment and lies at the next. After every
move: what a hospital released is its true contribution to a query that the honest program asks, once under a
key, and whatever opens is the true sum. At the end an honest coordinator finishes the study, to the results
of a direct run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.properties.lies import EPOCHS, LyingWorld
from tests.properties.machine import FLOOR, KEYS, LABELS, NAMES, STUDY, World, cohorts
from tests.properties.truth import true_sum
from wardround_common import messages as say
from wardround_common.errors import ProtocolError, Refused
from wardround_common.sealing.epoch import LEAVES, audits_digest, sign_epoch
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord, position

HOSPITAL = st.integers(0, len(NAMES) - 1)
SOME = st.sets(HOSPITAL, min_size=1)
TIMES = st.sampled_from([0, 0, 1, 1, 2])
ANY = st.integers(0, 255)


class ProtocolMachine(RuleBasedStateMachine):
    """Draws what happens next; ``World`` does it."""

    world: LyingWorld

    @initialize(
        count=st.integers(3, len(NAMES)),
        leaves=st.lists(st.sampled_from(LEAVES), min_size=len(NAMES), max_size=len(NAMES)),
        willing=st.booleans(),
        max_epochs=st.sampled_from([99, 2, 0]),
        unconfirmed=st.sets(HOSPITAL, max_size=2),
    )
    def begin(
        self, count: int, leaves: list[str], willing: bool, max_epochs: int, unconfirmed: set[int]
    ) -> None:
        count += count == 4  # of four, of whom one has no outcome, none can be left out
        terms = ["allow"] * count if willing else leaves[:count]
        confirmed = [i not in unconfirmed for i in range(count)]
        self.world = LyingWorld(terms, [max_epochs] * count, confirmed)
        self.world.begin(self.world.names)

    def one(self, hospital: int) -> str:
        return self.world.names[hospital % len(self.world.names)]

    def member(self, hospital: int, times: int = 0, *, again: bool = False) -> str:
        """Return a hospital that has approved the roster, after so many honest steps.

        ``again``: it is started again after them.
        """
        self.world.go_on(times)
        members = [name for name in self.world.names if self.world.knows(name)]
        assume(members)
        name = members[hospital % len(members)]
        if again:
            self.world.hospitals[name].restart()
        return name

    def some(self, hospitals: set[int]) -> list[str]:
        return sorted({self.one(one) for one in hospitals})

    # --- honest ---

    @rule(times=TIMES)
    def steps(self, times: int) -> None:
        self.world.go_on(times)

    @rule(hospitals=SOME)
    def only_some_are_asked(self, hospitals: set[int]) -> None:
        if self.world.ready:
            self.world.ask(self.some(hospitals))

    @rule(hospital=HOSPITAL)
    def officers_confirm(self, hospital: int) -> None:
        self.world.hospitals[self.one(hospital)].confirm(self.world.names)

    @rule(left_out=st.sets(HOSPITAL, max_size=3), times=TIMES)
    def other_hospitals(self, left_out: set[int], times: int) -> None:
        self.world.go_on(times)
        out = self.some(left_out)
        self.world.begin([name for name in self.world.names if name not in out])

    @rule()
    def the_same_hospitals(self) -> None:
        self.world.begin(self.world.base or self.world.names)

    # --- mishaps ---

    @rule(hospital=HOSPITAL)
    def one_goes(self, hospital: int) -> None:
        self.world.gone.add(self.one(hospital))

    @rule(hospital=HOSPITAL)
    def one_returns(self, hospital: int) -> None:
        self.world.gone.discard(self.one(hospital))

    @rule(hospitals=SOME)
    def nodes_are_started_again(self, hospitals: set[int]) -> None:
        for name in self.some(hospitals):
            self.world.hospitals[name].restart()

    @rule(hospital=HOSPITAL)
    def a_database_is_copied(self, hospital: int) -> None:
        self.world.hospitals[self.one(hospital)].copy()

    @rule(hospital=HOSPITAL)
    def a_copied_database_is_put_back(self, hospital: int) -> None:
        self.world.hospitals[self.one(hospital)].restore()

    @rule()
    def the_coordinator_is_started_again(self) -> None:
        self.world.restart_coordinator()

    @rule()
    def the_coordinator_dies_before_a_sum_is_recorded(self) -> None:
        self.world.advance(lose=True)

    @rule(hospital=HOSPITAL, times=TIMES)
    def a_step_comes_twice(self, hospital: int, times: int) -> None:
        name, world = self.member(hospital, times), self.world
        if world.ready and world.current is not None and name in world.current.hospitals:
            have = world.records(name)
            step = world.told(name, world.course[have:], have)
            first, again = world.tell(name, step), world.tell(name, step)
            assert first == again or isinstance(first, Exception)

    @rule(hospitals=SOME, which=ANY)
    def an_epoch_is_proposed_again(self, hospitals: set[int], which: int) -> None:
        self.world.propose_again(self.some(hospitals), which)

    # --- lies ---

    @rule(hospital=HOSPITAL, times=TIMES, again=st.booleans(), which=ANY, how=ANY, place=ANY, bit=ANY)
    def a_false_sum(
        self, hospital: int, times: int, again: bool, which: int, how: int, place: int, bit: int
    ) -> None:
        self.world.lie_about_a_sum(self.member(hospital, times, again=again), which, how, place, bit)

    @rule(liar=HOSPITAL, victim=HOSPITAL, times=TIMES, bit=st.integers(0, 1 << 20))
    def a_hospital_changes_its_answer(self, liar: int, victim: int, times: int, bit: int) -> None:
        self.world.lie_of_a_hospital(self.member(liar, times), self.member(victim), bit)

    @rule(hospital=HOSPITAL, times=TIMES, which=ANY)
    def another_question(self, hospital: int, times: int, which: int) -> None:
        self.world.lie_about_questions(self.member(hospital, times), which)

    @rule(hospital=HOSPITAL, times=TIMES, which=ANY, again=st.booleans())
    def an_old_question(self, hospital: int, times: int, which: int, again: bool) -> None:
        self.world.ask_old(self.member(hospital, times, again=again), which, prefix=again)

    @rule(hospital=HOSPITAL, times=TIMES, again=st.booleans(), how=st.integers(0, 5), which=ANY)
    def records_in_disorder(self, hospital: int, times: int, again: bool, how: int, which: int) -> None:
        self.world.disorder(self.member(hospital, times, again=again), how, which)

    @rule(
        few=st.none() | SOME,
        times=TIMES,
        hows=st.lists(st.integers(0, EPOCHS - 1), min_size=1, max_size=6, unique=True),
        which=ANY,
    )
    def another_epoch(self, few: set[int] | None, times: int, hows: list[int], which: int) -> None:
        self.world.go_on(times)
        names = list(self.world.names) if few is None else self.some(few)
        for how in hows:
            self.world.lie_about_epoch(names, how, which)

    @rule(hospital=HOSPITAL, times=TIMES, how=ANY, which=ANY)
    def a_forged_opening(self, hospital: int, times: int, how: int, which: int) -> None:
        name = self.member(hospital, times)
        if self.world.current is not None:
            self.world.begin(self.world.current.hospitals)
        self.world.forge_opening(name, how, which)

    # --- what must hold ---

    @invariant()
    def only_true_contributions_to_what_the_program_asks_were_released(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.finish()
            self.world.check()
        finally:
            self.world.close()


TestProtocolMachine = ProtocolMachine.TestCase
TestProtocolMachine.settings = settings(
    max_examples=5 * settings().max_examples, stateful_step_count=25, deadline=None
)


# --- what the machine found, or is too seldom to find ---


def signatures_under(world: World, proposal: say.EpochProposal) -> dict[str, say.EpochSignature]:
    """Return every hospital's signature under an epoch; raise what the first raises that does not sign."""
    return {
        name: world.hospitals[name].session.sign_epoch(proposal.epoch, proposal.audits)
        for name in proposal.epoch.hospitals
    }


def proposed_to(world: World, hospitals: Sequence[str]) -> say.EpochProposal:
    """Return an epoch of these hospitals, however few of them stay; all know the course."""
    assert world.approve(hospitals) == tuple(hospitals)
    world.federation(hospitals).bring_up(world.course)
    taking_part = {label: world.coordination.taking_part(label) for label in LABELS}
    steps, head = world.replay.steps, world.replay.head
    return world.coordination.propose(tuple(hospitals), taking_part, world.current, steps, head)


def with_a_careless_comer(world: World) -> tuple[EpochRecord, tuple[bytes, ...]]:
    """Return an epoch of all, and its heads, that the last signed too, who says `group` and did not look."""
    *four, comer = world.names
    proposal = proposed_to(world, world.names)
    with pytest.raises(Refused) as refused:
        world.hospitals[comer].session.sign_epoch(proposal.epoch, proposal.audits)
    assert refused.value.code == "leave"
    epoch, (*_, audit) = proposal.epoch, proposal.audits
    careless = say.EpochSignature(sign_epoch(KEYS[comer][0], epoch, "group", audit), "group", audit, ())
    # the others sign: they learn of its `group` with its signature only
    replies = {name: world.hospitals[name].session.sign_epoch(epoch, proposal.audits) for name in four}
    return world.coordination.begun(epoch, {**replies, comer: careless}), proposal.audits


def test_a_set_against_terms_that_only_its_signatures_tell_is_not_recorded_and_the_study_goes_on() -> None:
    world = World(["allow", "allow", "allow", "allow", "group"], [9] * 5, [True] * 5)
    *four, comer = world.names
    assert not world.begin(four) and world.advance()
    before = list(world.course)
    assert world.begin(world.names) == "leave"
    record, audits = with_a_careless_comer(world)
    assert world.coordination.exposed(record, world.course, FLOOR) == (comer,)
    assert world.adopt(record, audits) == "leave"
    assert world.course == before
    assert not world.begin(four) and world.advance()
    world.finish()
    world.close()


def test_members_do_not_compute_in_a_set_against_its_signed_terms_that_is_recorded_all_the_same() -> None:
    world = LyingWorld(["allow", "allow", "allow", "allow", "group"], [9] * 5, [True] * 5)
    *four, _ = world.names
    assert not world.begin(four) and world.advance()
    record, _ = with_a_careless_comer(world)
    world.course.append(record)
    world.replay.begin(record.epoch)
    for name in four:
        have = world.records(name)
        reply = world.tell(name, world.told(name, world.course[have:], have))
        assert isinstance(reply, Refused) and reply.code == "leave", f"{name}: {reply}"
    world.close()


def test_an_epoch_in_which_too_few_stay_is_not_signed_and_the_study_goes_on() -> None:
    world = World(["allow"] * 7, [9] * 7, [True] * 7)
    first, other = world.names[:4], ("h02", "h04", "h05", "h06")  # of whom one verified the sums before
    assert not world.begin(first) and world.advance()
    assert world.begin(other) == "too few"
    with pytest.raises(Refused) as refused:
        signatures_under(world, proposed_to(world, other))
    assert refused.value.code == "other_course"
    assert not world.begin(first) and world.advance()
    world.finish()
    world.close()


def test_a_hospital_comes_back_however_often_the_others_began_meanwhile() -> None:
    world = World(["allow"] * 5, [1] * 5, [True] * 5)
    four = world.names[:4]
    for _ in range(4):
        assert not world.begin(four) and world.advance()
        world.restart_coordinator()
    assert not world.begin(world.names) and world.advance()
    world.finish()
    assert world.replay.findings is not None
    world.close()


def test_who_comes_cannot_be_told_a_last_sum_that_no_member_verified() -> None:
    world = World(["allow"] * 5, [9] * 5, [True] * 5)
    four = world.names[:4]
    assert not world.begin(four)
    for _ in range(3):
        assert world.advance()
    world.approve(world.names)  # and nobody is told the last sum
    true = world.course[-1]
    assert isinstance(true, StepRecord)
    first = true.sums[0]
    lie = StepRecord(true.epoch, (dataclasses.replace(first, vector=first.vector + 1), *true.sums[1:]))
    taking_part = {label: world.coordination.taking_part(label) for label in LABELS}
    for last in (lie, true):
        steps, head = position(world.binding, [*world.course[:-1], last])
        honest = world.coordination.propose(world.names, taking_part, world.current, steps, head)
        for name in four:
            with pytest.raises(Refused) as refused:
                world.hospitals[name].session.sign_epoch(honest.epoch, honest.audits)
            assert refused.value.code == "behind", f"{name} signed a head that it had not verified"
    assert not world.begin(world.names) and world.advance()
    world.close()


@pytest.mark.parametrize(
    "changed",
    [
        lambda heads: heads[:-1],
        lambda heads: (*heads, heads[0]),
        lambda heads: (*heads[:-1], bytes(40)),
        lambda heads: (*heads[:-1], heads[-1][:39]),
    ],
    ids=["one too few", "one too many", "another", "too short"],
)
def test_audit_heads_that_are_not_every_hospitals_are_refused(
    changed: Callable[[tuple[bytes, ...]], tuple[bytes, ...]],
) -> None:
    world = World(["allow"] * 3, [9] * 3, [True] * 3)
    honest = proposed_to(world, world.names)
    heads = changed(honest.audits)
    digested = dataclasses.replace(honest.epoch, audits=audits_digest(heads))
    session = world.hospitals["h00"].session
    with pytest.raises(ProtocolError, match="does not tell every hospital's audit head"):
        session.sign_epoch(honest.epoch, heads)
    if heads[:-1] == honest.audits[:-1] and len(heads[-1]) == 40:
        session.sign_epoch(digested, heads)  # nobody has seen another head of the last
    else:
        with pytest.raises(ProtocolError, match="audit head"):
            session.sign_epoch(digested, heads)
    world.close()


def test_sums_under_an_epoch_in_which_nobody_computed_cannot_be_told() -> None:
    world = LyingWorld(["allow"] * 5, [9] * 5, [True] * 5)
    assert not world.begin(world.names)
    for _ in range(3):
        assert world.advance()
    assert not world.begin(world.names)  # all signed it, and nobody was asked or told its secret
    idle = world.current
    assert idle is not None
    invented = tuple(
        Opened(
            *(due.analysis, due.index, due.digest),
            2 * true_sum(STUDY, due.asked, cohorts(), idle.of(due.analysis)),
            bytes(16),
        )
        for due in world.replay.due
    )
    told = [*world.course, StepRecord(idle.number, invented)]
    steps, head = position(world.binding, told)
    world.approve(world.names)
    taking_part = {label: world.coordination.taking_part(label) for label in LABELS}
    next_ = world.coordination.propose(world.names, taking_part, idle, steps, head)
    for name in world.names:
        for is_secret_told in (True, False):
            with pytest.raises((Refused, ProtocolError)):
                world.hospitals[name].session.sign_epoch(next_.epoch, next_.audits)
            have = world.records(name)
            wrapped = world.wrapped_for(name, told[have:])
            if not is_secret_told:
                wrapped = (*wrapped[:-1], b"")
            world.refused(name, world.told(name, told[have:], have, wrapped=wrapped))
    assert not world.begin(world.names) and world.advance()
    world.finish()
    world.close()
