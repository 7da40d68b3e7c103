"""The figures of sealing: masks beside AES itself and Flower's, what goes over the wire, the verified plan.

Ratios are of the best of runs in turn, so that what else the machine does falls on both sides alike.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from flwr.app import Context, RecordDict
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from tests.bench.measure import (
    Figure,
    at_least,
    at_most,
    in_fresh_process,
    median_s,
    run,
    wall_s,
    wardround,
)
from tests.support import session_of, study_of
from wardround_client.app import Node, client_app
from wardround_client.reader import read
from wardround_client.sources import open_table
from wardround_client.store import NodeStore
from wardround_common.analyses.flow import LABEL
from wardround_common.messages import MESSAGES, Answers, Approval, EpochProposal, EpochSignature, Step
from wardround_common.replay import Replay
from wardround_common.sealing import identity
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.lane import lane
from wardround_common.sealing.mask import LANE_BYTES, MaskingKey, seal, unseal
from wardround_common.sealing.participant import Floors, Participant, Surroundings
from wardround_common.sealing.record import position
from wardround_common.sealing.roster import Roster
from wardround_common.study import read_study, study_key
from wardround_common.typing import Ints
from wardround_common.wire import encode
from wardround_server.app import server_app
from wardround_server.conductor import Progress
from wardround_server.grid import LocalGrid
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.strategies import flower
from wardround_server.transcript import Transcript

CONTEXT, GROUP = bytes(range(32)), bytes(range(32, 64))
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PEERS, FEW_PEERS = 20, 3  # beside Flower's masks
FLOWERS_MODULUS = 1 << 32  # its workflow's default; 64 bits, as ours have, would take it longer
MEMBERS = 200  # of the epoch that is weighed
PLAN_RUNS = 4


def figures() -> Iterator[Figure]:
    """Measure everything; about a minute and a half."""
    yield from _masks()
    yield from _beside_flower()
    yield from _messages()
    yield from _epoch()
    yield from _plan()


# Masks


def _masks() -> Iterator[Figure]:
    found = in_fresh_process(masks)
    share = 100 * found["keystream"] / found["openssl"]
    yield at_least("seal_to_openssl", share, "% of AES-256-CTR's speed", 80)
    yield Figure("seal_keystream", found["keystream"] / 1e9, "GB/s")
    yield Figure("openssl_aes_256_ctr", found["openssl"] / 1e9, "GB/s")
    yield at_most("seal_50_peers_x_1000000", found["seal"], "s", 0.15)
    yield at_most("unseal_50_answers_x_1000000", found["unseal"], "s", 0.5)
    yield at_most("seal_200_peers_x_100000", found["many"], "s", 0.1)
    yield at_most("check_lane_1000000", found["lane"], "s", 0.06)


def masks() -> dict[str, float]:
    """Time sealing, opening and the check lane in seconds; keystream and OpenSSL in bytes a second."""
    names = [f"h{i:03d}" for i in range(51)]
    vector, secrets = _vector(1_000_000), _secrets(names[0], names)
    openssl, own = [], []
    for _ in range(4):
        openssl.append(_openssl())
        own += [wall_s(lambda: seal(vector, 1, names[0], secrets, CONTEXT)) for _ in range(5)]
    answers = [seal(vector, 1, name, _secrets(name, names[1:]), CONTEXT) for name in names[1:]]
    opened, lanes = unseal(answers)
    if lanes != len(answers) or not np.array_equal(opened, len(answers) * vector):
        raise RuntimeError("the masks do not cancel")
    many = [f"h{i:03d}" for i in range(201)]
    short, of_many = vector[:100_000], _secrets(many[0], many)
    return {
        "openssl": max(openssl),
        "keystream": len(secrets) * vector.nbytes / min(own),
        "seal": float(np.median(own)),
        "unseal": median_s(lambda: unseal(answers), 5),
        "many": median_s(lambda: seal(short, 1, many[0], of_many, CONTEXT), 5),
        "lane": median_s(lambda: lane(vector, GROUP, CONTEXT), 5),
    }


def _openssl() -> float:
    """Return OpenSSL's own figure, bytes a second, of AES-256-CTR in pieces of 16 KiB."""
    speed = ("speed", "-elapsed", "-seconds", "1", "-bytes", "16384", "-evp", "aes-256-ctr")
    return 1000 * float(run("openssl", *speed).split()[-1].removesuffix("k"))


def _vector(size: int) -> Ints:
    return np.random.default_rng(size).integers(-(2**52), 2**52, size)


def _secrets(own: str, names: list[str]) -> dict[str, bytes]:
    """Return secrets that each pair of names has in common, as if agreed upon."""
    pairs = {name: "".join(sorted((own, name))) for name in names if name != own}
    return {name: hashlib.sha256(pair.encode()).digest() for name, pair in pairs.items()}


# Flower's masks


def _beside_flower() -> Iterator[Figure]:
    found = in_fresh_process(beside_flower)
    for size in SIZES:
        yield at_least(f"seal_to_flower_{size}", found[str(size)], f"x as fast, {PEERS} peers", 2.5)
    for size in SIZES:
        yield Figure(f"seal_to_flower_{size}_few", found[f"{size} few"], f"x as fast, {FEW_PEERS} peers")


def beside_flower() -> dict[str, float]:
    """Return how many times as fast as SecAgg+'s pairwise masks ours are, by size.

    Ours with their lanes and the derivation of their keys; Flower's alone, without the private mask that
    its protocol adds. Neither with the agreement on secrets.
    """
    found = {}
    for peers, suffix in ((PEERS, ""), (FEW_PEERS, " few")):
        names = [f"h{i:03d}" for i in range(peers + 1)]
        own = names[peers // 2]
        secrets = _secrets(own, names)
        for size in SIZES:
            vector = _vector(size)
            ours, flowers = _in_turn(
                lambda v=vector, o=own, s=secrets: seal(v, 1, o, s, CONTEXT),  # type: ignore[misc]
                lambda v=vector, o=own, s=secrets: _flowers(v, o, s),  # type: ignore[misc]
                4 if size > 1_000_000 else 20,
            )
            found[f"{size}{suffix}"] = flowers / ours
    return found


def _flowers(vector: Ints, own: str, secrets: Mapping[str, bytes]) -> list[Ints]:
    """Mask as ``secaggplus_mod`` does in its stage 2."""
    masked: list[Any] = [vector]
    for name, secret in secrets.items():
        mask = pseudo_rand_gen(secret, FLOWERS_MODULUS, [vector.shape])
        masked = (parameters_addition if own > name else parameters_subtraction)(masked, mask)
    return parameters_mod(masked, FLOWERS_MODULUS)


def _in_turn(one: Callable[[], object], other: Callable[[], object], times: int) -> tuple[float, float]:
    """Return the best wall time of either, in seconds."""
    both = [(wall_s(one), wall_s(other)) for _ in range(times)]
    return min(first for first, _ in both), min(second for _, second in both)


# What a study's messages weigh


class Weighed(Node):
    """A node that notes how often it was asked, and what its answers to a step hold beside 8 bytes a value.

    ``beside``: those bytes, and over how many answers.
    """

    def __init__(self, store: NodeStore) -> None:
        super().__init__(store)
        self.asked = 0
        self.beside: list[tuple[int, int]] = []

    def reply(self, action: str, body: Any) -> bytes:
        """Reply as any node."""
        reply = super().reply(action, body)
        if action in ("ask", "train", "evaluate"):
            self.asked += 1
            answers = MESSAGES.decode(reply, Answers).answers
            values = sum(len(one.sealed) - LANE_BYTES for one in answers)
            self.beside.append((len(reply) - values, len(answers)))
        return reply


def _messages() -> Iterator[Figure]:
    """Run the demo's study and look at what each hospital is asked, and answers."""
    study, nodes, stores, most, steps = read_study(shipped("heart-disease")), [], [], 0, 0
    for name, table in shipped_tables("heart-disease").items():
        store = NodeStore()
        node = Weighed(store)
        cohort = read(open_table(table), study, name, study_key(study)).cohort
        node.open(session_of(study, name, cohort, store))
        nodes.append(node)
        stores.append(store)

    def observe(progress: Progress) -> None:
        nonlocal most, steps
        steps = progress.step + 1
        most = max(most, *(node.asked for node in nodes))
        for node in nodes:
            node.asked = 0

    grid = LocalGrid({i + 1: (lambda node=node: client_app(node)) for i, node in enumerate(nodes)})
    try:
        app = server_app(study, Transcript(), lambda findings: None, observe)
        app(grid, Context(1, 0, {}, RecordDict(), {}))
    finally:
        grid.close()
        for store in stores:
            store.close()
    beside = [one for node in nodes for one in node.beside]
    most_beside, answers = max(beside)
    yield at_most("answer_beside_values", max(size / n for size, n in beside), "bytes an answer", 512)
    yield Figure("answers_beside_values", most_beside, f"bytes a message, of {answers} answers")
    yield at_most("messages_a_step", most, f"a hospital, the most of {steps} steps", 1)


# An epoch of many hospitals


def _epoch() -> Iterator[Figure]:
    found = in_fresh_process(epoch)
    yield at_most("epoch_of_200", found["most"] / 1000, "KB of messages, the leader", 60)
    yield Figure("epoch_of_200_usual", found["usual"] / 1000, "KB of messages, any other hospital")
    for part in ("proposal", "signature", "step"):
        yield Figure(f"epoch_of_200_{part}", found[part] / 1000, "KB, the leader")
    yield Figure("epoch_of_200_sign", found["sign_s"], "s, the leader")
    yield Figure("epoch_of_200_verify", found["verify_s"], "s, any other hospital")


def epoch() -> dict[str, float]:
    """Have 200 hospitals begin an epoch of four analyses; return bytes of messages, and seconds.

    One in ten has too few rows for one of the analyses.
    """
    kinds = ("summary", "logistic", "forest", "fedavg")
    study = study_of(*({"kind": kind} for kind in kinds))
    labels = sorted([LABEL, *kinds])
    members = {
        name: Participant(
            name=name,
            identity=Identity.generate(),
            masking=MaskingKey(),
            study=study.digest,
            analyses=labels,
            taking_part=[label for label in labels if i % 10 or label != "forest"],
            floors=Floors(3, 3, "group"),
            replay=lambda binding: Replay(study, flower, binding),
            confirmed=lambda member: True,
        )
        for i, name in enumerate(f"general-hospital-{i:03d}" for i in range(MEMBERS))
    }
    roster = Roster(study.digest, tuple(member.enter() for member in members.values()))
    audit = AuditHead(7, hashlib.sha256(b"audit").digest())
    around = Surroundings(lambda head: True, {}, ())
    coordination = Coordination(roster, verified=True)
    for name, member in members.items():
        signature = member.approve_roster(roster)
        approval = Approval(signature, member.taking_part, 0, 0, audit.packed(), ())
        coordination.approved(name, approval)
    taking_part = {label: coordination.taking_part(label) for label in labels}
    proposed = coordination.propose(roster.names, taking_part, None, *position(roster.digest, ()))
    proposal, replies, sign_s = encode(proposed), {}, {}
    for name, member in members.items():
        start = time.perf_counter()
        own = MESSAGES.decode(proposal, EpochProposal)
        member.sign_epoch(own.epoch, own.audits, around)
        replies[name] = encode(member.signature(own.epoch, audit))
        sign_s[name] = time.perf_counter() - start
    signed = {name: MESSAGES.decode(reply, EpochSignature) for name, reply in replies.items()}
    record = coordination.begun(proposed.epoch, signed)
    replay = Replay(study, flower, roster.digest)
    replay.begin(proposed.epoch)
    steps = coordination.steps(replay.due, (record,), proposed.epoch.hospitals)
    leader, other = roster.names[0], roster.names[-1]
    size = {name: (len(proposal), len(replies[name]), len(encode(steps[name]))) for name in members}
    return {
        "most": max(map(sum, size.values())),
        "usual": sum(size[other]),
        **dict(zip(("proposal", "signature", "step"), size[leader], strict=True)),
        "sign_s": sign_s[leader],
        "verify_s": wall_s(lambda: _take(members[other], encode(steps[other]), around)),
    }


def _take(member: Participant, body: bytes, around: Surroundings) -> None:
    """Take an epoch's first step as a hospital of its own process does, which verified nothing before."""
    identity._valid.cache_clear()
    step = MESSAGES.decode(body, Step)
    for record, wrapped in zip(step.course, step.wrapped, strict=True):
        member.take(record, wrapped)
    if not member.wanted(step, lambda: around):
        raise RuntimeError("the epoch's first step asks nothing")


# What following the program costs


def _plan() -> Iterator[Figure]:
    """Time the demo's study under both plans, as a user's command, results and report included."""
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = {plan: _command(Path(folder), plan) for plan in ("verified", "trusted")}
        best["verified"], best["trusted"] = _in_turn(
            lambda: wardround(*commands["verified"]), lambda: wardround(*commands["trusted"]), PLAN_RUNS
        )
    more = 100 * (best["verified"] / best["trusted"] - 1)
    yield at_most("verified_plan_more", more, "% more than a trusted one", 30)
    for plan, seconds in best.items():
        yield Figure(f"{plan}_plan", seconds, "s")


def _command(folder: Path, plan: str) -> list[str | Path]:
    """Write the demo's study under a plan; return the arguments of `wardround` that run it."""
    study = yaml.safe_load(shipped("heart-disease").read_text("utf-8"))
    study["privacy"]["plan"] = plan
    file = folder / f"{plan}.json"
    file.write_text(json.dumps(study), "utf-8")
    arguments: list[str | Path] = ["simulate", file, "--quiet", "--out", folder / plan]
    for name, table in shipped_tables("heart-disease").items():
        arguments += ["--data", f"{name}={table}"]
    return arguments
