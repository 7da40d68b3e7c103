"""The coordinator's Flower app: one study, conducted over whatever Grid Flower gives it."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from wardround_common.plan import Findings
from wardround_common.replay import Replay
from wardround_common.study import Study
from wardround_server.conductor import Observer, conduct
from wardround_server.federation import Federation, form
from wardround_server.publish import models
from wardround_server.strategies import flower
from wardround_server.transcript import Stated, StatementsRecord, Transcript


def server_app(
    study: Study, transcript: Transcript, deliver: Callable[[Findings], None], observe: Observer
) -> ServerApp:
    """Return an app whose run conducts ``study`` and hands over its findings.

    The study, not Flower's run configuration, decides: a run configuration can be overridden per run.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's signature)
        deliver(run_study(study, transcript, form(grid, study, transcript), observe))

    return app


def run_study(study: Study, transcript: Transcript, members: Federation, observe: Observer) -> Findings:
    """Conduct a study over its federation; at the end ask for statements, once."""
    replay = Replay(study, flower, members.epoch.binding)
    findings = conduct(replay, transcript, members, observe)
    if transcript.statements is None:
        told = members.statements(list(models(findings)) if study.split is not None else [])
        transcript.append(StatementsRecord(tuple(Stated(name, one) for name, one in told)))
    return findings
