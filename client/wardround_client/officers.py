"""What a hospital's officer says of other hospitals: confirmed, revoked, or nothing yet.

A coordinator names the members of a study, so it could name hospitals that it made up. An officer therefore
confirms each by the ten words of its fingerprint, read out on the telephone or taken from an enrolment file
that comes from the hospital itself. This hospital takes part where all others are confirmed. The officer
also forgives this hospital's own database that it was restored from an older copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround_client.home import HospitalHome
from wardround_client.session import BEHIND, CONFIRMED, CONFIRMED_BYTES, KEPT, REVOKED
from wardround_client.store import StudyRecord
from wardround_common.enrolment import check_name
from wardround_common.errors import WardroundError, did_you_mean, listed
from wardround_common.home import read_enrolment
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.participant import OpenEpoch
from wardround_common.sealing.roster import Roster, fingerprint
from wardround_common.words import WORDS, words

NOT_CONFIRMED = "not confirmed"
_VALUES: Mapping[str, int] = {word: value for value, word in enumerate(WORDS)}


@dataclass(frozen=True)
class Known:
    """Another hospital: by the first ten bytes of its fingerprint, and what the officer says of it.

    ``met``: a coordinator has named it; ``studies``: in whose rosters, signed here, it stands.
    """

    name: str
    fingerprint: bytes
    says: str = ""
    met: bool = False
    studies: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The ten words that its officer reads out."""
        return " ".join(words(self.fingerprint))

    @property
    def state(self) -> str:
        """`confirmed`, `revoked` or `not confirmed`."""
        return self.says or NOT_CONFIRMED

    @property
    def shown(self) -> str:
        """Its name; one that no hospital may have, as a coordinator can make it up, in letters that print."""
        return printable(self.name)


@dataclass(frozen=True)
class SignedRoster:
    """The roster of an approved study: its words, its members' names, and those not confirmed."""

    words: str
    members: tuple[str, ...]
    not_confirmed: tuple[str, ...]


@dataclass(frozen=True)
class Lacking:
    """A head of this hospital's own audit log that others saw, and that the log here never had."""

    study: str
    head: AuditHead


def printable(name: str) -> str:
    """Return a name as it may be shown."""
    try:
        check_name(name)
    except WardroundError:
        return ascii(name)[:80]
    return name


def own_words(home: HospitalHome) -> str:
    """Return the ten words that this hospital's officer reads out, to the coordinator and to others."""
    return " ".join(words(fingerprint(home.name, home.identity.public)))


def known(home: HospitalHome) -> list[Known]:
    """Return all hospitals that were named in rosters or spoken of by the officer, by name."""
    says = home.store.officers()
    met = {_short(name, identity): name for name, identity in home.store.met()}
    studies: dict[bytes, set[str]] = {}
    for record, roster in _rosters(home):
        for member in roster.members:
            studies.setdefault(_short(member.name, member.identity), set()).add(record.name)
    names = {short: name for short, (name, _) in says.items()} | met
    return [
        Known(
            name,
            short,
            says.get(short, ("", ""))[1],
            short in met,
            tuple(sorted(studies.get(short, ()))),
        )
        for short, name in sorted(names.items(), key=lambda item: (item[1], item[0]))
    ]


def _short(name: str, identity: bytes) -> bytes:
    return fingerprint(name, identity)[:CONFIRMED_BYTES]


def _rosters(home: HospitalHome) -> list[tuple[StudyRecord, Roster]]:
    return [
        (record, KEPT.decode(record.roster, Roster))
        for record in home.store.studies()
        if record.approved_at is not None and record.roster is not None
    ]


def signed_rosters(home: HospitalHome) -> dict[bytes, SignedRoster]:
    """Return the rosters that were signed of approved studies, by the study's digest."""
    says = home.store.officers()
    return {
        record.digest: SignedRoster(
            " ".join(words(roster.digest)),
            tuple(map(printable, roster.names)),
            tuple(
                printable(one.name)
                for one in roster.members
                if one.name != home.name
                and says.get(_short(one.name, one.identity), ("", ""))[1] != CONFIRMED
            ),
        )
        for record, roster in _rosters(home)
    }


def heard(text: str) -> bytes:
    """Return the ten bytes that ten words stand for. WardroundError names each word that is none of ours."""
    spoken = text.replace(",", " ").casefold().split()
    wrong = [
        f"`{word if word.isprintable() else ascii(word)}`{did_you_mean(word, WORDS)}"
        for word in spoken
        if word not in _VALUES
    ]
    if wrong:
        raise WardroundError(f"--words: no word of the list: {', '.join(wrong[:10])}; have it read out again")
    if len(spoken) != CONFIRMED_BYTES:
        raise WardroundError(f"--words: {CONFIRMED_BYTES} words are read out, not {len(spoken)}")
    return bytes(_VALUES[word] for word in spoken)


def enrolled(file: Path, name: str) -> bytes:
    """Return the ten bytes for which a hospital's enrolment file stands. WardroundError unless it is its."""
    enrolment = read_enrolment(file)
    if enrolment.hospital != name:
        raise WardroundError(f"{file}: the enrolment of `{enrolment.hospital}`, not of `{name}`")
    return _short(name, enrolment.identity)


def find(home: HospitalHome, name: str, told: bytes | None = None) -> Known:
    """Return the hospital of this name: the one that was met, or the one that ``told`` stands for.

    WardroundError where none is known, several are, or these are another one's words.
    """
    check_name(name)
    if name == home.name:
        raise WardroundError(f"`{name}` is this hospital itself, which needs no confirmation")
    everyone = known(home)
    if told is not None:
        if told == _short(home.name, home.identity.public):
            raise WardroundError(f"these are the words of `{home.name}`, this hospital itself")
        found = [one for one in everyone if one.fingerprint == told] or [Known(name, told)]
        if found[0].name != name:
            raise WardroundError(f"these are the words of `{found[0].shown}`, not of `{name}`")
        return found[0]
    found = [one for one in everyone if one.name == name]
    if not found:
        raise WardroundError(
            f"no coordinator has named a hospital `{name}` yet{did_you_mean(name, _names(everyone))}; "
            "confirm it by the words that its officer reads out (--words), or its enrolment file (--file)"
        )
    if len(found) > 1:
        each = "; ".join(f'"{one.words}" ({one.state})' for one in found)
        raise WardroundError(
            f"`{name}` stands for several keys: {each}; telephone it, and say which by the words that its "
            'officer reads out: --words "..."'
        )
    return found[0]


def _names(everyone: Iterable[Known]) -> list[str]:
    return sorted({one.shown for one in everyone})


def check_confirmable(home: HospitalHome, one: Known) -> None:
    """Raise WardroundError where a hospital was revoked, or its name stands for other words here."""
    if one.says == REVOKED:
        raise WardroundError(
            f"`{one.name}` with these words was revoked here; take that back first: "
            f"wardround hospital confirm {one.name} --withdraw"
        )
    others = [
        other
        for other in known(home)
        if other.name == one.name and other.fingerprint != one.fingerprint and other.says != REVOKED
    ]
    if (others and not one.met) or any(other.says == CONFIRMED for other in others):
        raise WardroundError(
            f'`{one.name}` stands for other words here: "{others[0].words}" ({others[0].state}); telephone '
            "it. If it has new keys, revoke the old ones first (--revoke, with those words); if not, "
            "somebody else uses its name: confirm nothing, and tell the other hospitals"
        )


def confirm(home: HospitalHome, one: Known) -> None:
    """Note that the officer has compared a hospital's words. WardroundError as ``check_confirmable``."""
    check_confirmable(home, one)
    _say(home, one, CONFIRMED, "confirm")


def revoke(home: HospitalHome, one: Known) -> None:
    """Bar a hospital's identity: a roster, an epoch or a question with it is refused."""
    _say(home, one, REVOKED, "revoke")


def withdraw(home: HospitalHome, one: Known) -> None:
    """Take back what the officer said of a hospital. WardroundError if that was nothing."""
    if not one.says:
        raise WardroundError(f"`{one.name}`: this hospital's officer has said nothing of it")
    _say(home, one, "", "withdraw confirmation" if one.says == CONFIRMED else "withdraw revocation")


def _say(home: HospitalHome, one: Known, says: str, event: str) -> None:
    home.store.say(one.name, one.fingerprint, says)
    home.store.audit(event, "", f"{one.name} {one.words}")


def leaving(home: HospitalHome) -> list[tuple[str, str]]:
    """Return the studies that began with this hospital, and the terms of leaving that it signed for each."""
    found = []
    for record, _ in _rosters(home):
        epochs = [KEPT.decode(one, OpenEpoch) for one, _ in home.store.opened(record.digest)]
        signed = [
            one.opening.leaves[one.epoch.hospitals.index(home.name)]
            for one in epochs
            if home.name in one.epoch.hospitals
        ]
        found.append((record.name, signed[-1] if signed else home.policy.leave))
    return found


def lacking(home: HospitalHome) -> Lacking:
    """Return the last head that others saw of this hospital's log and it lacks. WardroundError if none."""
    for event, study, detail in reversed(home.store.entries()):
        if event == BEHIND:
            head = AuditHead.of(bytes.fromhex(detail))
            if not home.store.had(head):
                return Lacking(study, head)
    raise WardroundError(
        "nothing to forgive: no study was refused since others saw later entries of this hospital's audit log"
    )


def forgive(home: HospitalHome, one: Lacking) -> None:
    """Note that the officer knows why the log went back, so that epochs may say so."""
    home.store.forgive(one.head.packed())
    home.store.audit("forgive", one.study, one.head.packed().hex())


def missing(names: Iterable[str]) -> str:
    """Say which hospitals are not confirmed yet."""
    return f"Not confirmed: {listed(names)}; see wardround hospital members"
