"""The desk's pages, and what its forms do. No page changes anything by being looked at.

A form leads to another page (POST, then redirect, then GET). A decision carries the digest of what was shown,
so what is approved is what was seen. The coordinator writes titles, questions and names; all texts lose what
does not print and are escaped. There are no scripts.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from wardround_client import approval, ledger
from wardround_client.desk.door import Door
from wardround_client.desk.guard import FORM, KEY, STYLE, Form, fault
from wardround_client.desk.seen import Seen, see
from wardround_client.home import HospitalHome
from wardround_client.officers import own_words
from wardround_client.review import Change, plain
from wardround_client.store import APPROVED, OFFERED, REFUSED, RELEASED, Held, StudyRecord
from wardround_common.errors import WardroundError, listed
from wardround_common.study import read_manifest

_MOST_SEEN: Final = 32  # reviews that are kept, to say what changed since
_MOST_ENTRIES: Final = 500  # of the ledger on one page
_SAID: Final = {
    "approve": "Approved. The rows are pinned, and this hospital's node takes part from now on.",
    "reject": "Rejected. The coordinator learns only that it is not approved.",
    "withdraw": "Withdrawn, from the next query on. What was answered stays in ledger and audit log.",
    RELEASED: "Let go. The node sends it when it is asked next.",
    REFUSED: "Declined. It does not leave.",
}


def _printable(value: Any) -> Any:
    """Return a value as pages show it: a text without what does not print, such as marks of direction."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _time(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _some(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _ticked(text: str) -> Markup:
    """Return a text in which `names` between such marks stand as code; escaped first."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(plain(text)))))  # noqa: S704 (is escaped)


_PAGES: Final = Environment(
    loader=PackageLoader("wardround_client.desk", ""),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_printable,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters.update(time=_time, number=lambda value: f"{value:,}", some=_some, ticked=_ticked)


def denied(status: int, sentence: str, back: str = "") -> bytes:
    """Return the page of a request that is not served; ``back`` is where to go on from it."""
    phrase = HTTPStatus(status).phrase
    return _PAGES.get_template("denied.html.j2").render(phrase=phrase, sentence=sentence, back=back).encode()


class Pages:
    """The pages of one hospital. ``door`` makes the keys of its forms."""

    def __init__(self, home: HospitalHome, door: Door) -> None:
        self._home, self._door = home, door
        self._key = secrets.token_bytes(32)
        self._seen: dict[str, Seen] = {}
        self._turn = threading.Lock()

    def app(self) -> Starlette:
        """Return the pages as an ASGI app, which ``Guard`` has to stand before."""
        routes = (
            ("/", self._studies, "GET"),
            (STYLE, self._style, "GET"),
            ("/studies/{digest}", self._study, "GET"),
            ("/studies/{digest}/approve", self._approve, "POST"),
            ("/studies/{digest}/reject", self._reject, "POST"),
            ("/studies/{digest}/withdraw", self._withdraw, "POST"),
            ("/studies/{digest}/releases", self._releases, "GET"),
            ("/studies/{digest}/release", self._release, "POST"),
            ("/ledger", self._ledger, "GET"),
            ("/ledger/{digest}/{month}", self._entries, "GET"),
            ("/close", self._close, "POST"),
        )
        app = Starlette(
            routes=[Route(path, self._alone(page), methods=[method]) for path, page, method in routes],
            exception_handlers={HTTPException: _http, WardroundError: _wrong, Exception: _fault},
        )
        app.router.redirect_slashes = False
        return app

    def _alone(self, page: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Let one page be made at a time: they share the store, and a table may be large."""

        def made(request: Request) -> Response:
            with self._turn:
                return page(request)

        return made

    def _fresh(self) -> HospitalHome:
        """Return the home with its files as they are now."""
        fresh = HospitalHome(self._home.path)
        fresh.store = self._home.store
        return fresh

    def _page(self, template: str, request: Request, status: int = 200, **values: Any) -> Response:
        said = _SAID.get(request.query_params.get("said", ""), "")
        page = _PAGES.get_template(f"{template}.html.j2").render(
            hospital=self._home.name, form=self._form, said=said, **values
        )
        return HTMLResponse(page, status)

    def _form(self, action: str) -> Markup:
        """Return the tag that begins a form, and the key that it must carry."""
        return Markup('<form method="post" action="{}"><input type="hidden" name="{}" value="{}">').format(
            action, KEY, self._door.form_key(action)
        )

    def _record(self, request: Request) -> StudyRecord:
        try:
            record = self._home.store.study(bytes.fromhex(request.path_params["digest"]))
        except ValueError:
            record = None
        if record is None:
            raise HTTPException(404)
        return record

    # --- studies ---

    def _studies(self, request: Request) -> Response:
        home = self._fresh()
        rows = [
            (one, read_manifest(one.manifest).title or "", len(self._waiting(one)))
            for one in home.store.studies()
        ]
        rows.sort(key=lambda row: (row[0].state != OFFERED, not row[2], -row[0].offered_at))
        words = own_words(home) if home.identity_file.exists() else ""
        return self._page("studies", request, rows=rows, words=words)

    def _style(self, request: Request) -> Response:
        style = _PAGES.get_template("style.css.j2").render()
        return Response(style, media_type="text/css")

    def _study(self, request: Request) -> Response:
        record = self._record(request)
        self._home.store.audit("review", record.name, record.digest.hex())
        return self._shown(request, record)

    def _shown(
        self,
        request: Request,
        record: StudyRecord,
        status: int = 200,
        wrong: str = "",
        changes: tuple[Change, ...] = (),
    ) -> Response:
        """Show a study; where this hospital's table can't be read, it can be rejected all the same."""
        study, seen, unread, shown = read_manifest(record.manifest), None, "", ""
        try:
            _, seen = see(self._fresh(), study, self._key)
        except WardroundError as error:
            unread = str(error)
        if seen is not None:
            shown = seen.digest(self._key)
            self._seen.pop(shown, None)
            self._seen[shown] = seen
            for old in list(self._seen)[:-_MOST_SEEN]:
                del self._seen[old]
        return self._page(
            "study",
            request,
            status,
            record=record,
            study=study,
            seen=seen,
            shown=shown,
            unread=unread,
            wrong=wrong,
            changes=changes,
            waiting=len(self._waiting(record)),
        )

    def _approve(self, request: Request) -> Response:
        record, form = self._record(request), _given(request)
        home, study = self._fresh(), read_manifest(record.manifest)
        shown = _one(form, "shown")
        looked, seen = see(home, study, self._key)
        if seen.digest(self._key) != shown:
            before = self._seen.get(shown)
            wrong = "Nothing was approved: what you saw is not what is there now. Read it again, please."
            changes = () if before is None else seen.changes(before)
            return self._shown(request, record, 409, wrong, changes)
        near = [one for one in looked.near if not one.accepted]
        ticked = {number for number in range(len(near)) if str(number) in form.get("accept", ())}
        if len(ticked) < len(near):
            wrong = "Nothing was approved: a difference was not accepted. Tick each, or reject the study."
            return self._shown(request, record, 409, wrong)
        accept = sorted({name for one in near for name in one.others or (one.study,)})
        again = record.approved_at is not None
        approval.approve(home, study, again=again, accept=accept, looked=looked)
        return _to(f"/studies/{record.digest.hex()}?said=approve")

    def _reject(self, request: Request) -> Response:
        record, why = self._record(request), _one(_given(request), "why").strip()
        if not why:
            return self._shown(request, record, 409, "Nothing was rejected: give a reason, for your own log.")
        approval.reject(self._fresh(), read_manifest(record.manifest), plain(why))
        return _to(f"/studies/{record.digest.hex()}?said=reject")

    def _withdraw(self, request: Request) -> Response:
        record = self._record(request)
        if record.state != APPROVED:
            return self._shown(request, record, 409, "Nothing was withdrawn: the study is not approved.")
        approval.withdraw(self._fresh(), record.digest, plain(_one(_given(request), "why")))
        return _to(f"/studies/{record.digest.hex()}?said=withdraw")

    # --- releases that wait ---

    def _waiting(self, record: StudyRecord) -> list[Held]:
        if record.state != APPROVED:
            return []
        return [one for one in self._home.store.held(record.digest) if not one.says]

    def _releases(self, request: Request) -> Response:
        return self._held(request, self._record(request))

    def _held(self, request: Request, record: StudyRecord, status: int = 200, wrong: str = "") -> Response:
        home = self._fresh()
        rows = [(one, approval.waiting_release(home, record, one)) for one in self._waiting(record)]
        return self._page("releases", request, status, record=record, rows=rows, wrong=wrong)

    def _release(self, request: Request) -> Response:
        record, form = self._record(request), _given(request)
        says = _one(form, "says")
        if says not in (RELEASED, REFUSED):
            raise HTTPException(400)
        waiting = {one.context.hex(): one for one in self._waiting(record)}
        chosen = form.get("context", [])
        if not chosen or not set(chosen) <= set(waiting):
            wrong = "Nothing was decided: what you saw does not wait any more. This is what waits now."
            return self._held(request, record, 409, wrong)
        event = "let go" if says == RELEASED else "refuse release"
        for context in dict.fromkeys(chosen):
            one = waiting[context]
            detail = f"{one.analysis}/{one.index} {context}"
            self._home.store.decide(record.digest, one.context, says, (event, record.name, detail))
        return _to(f"/studies/{record.digest.hex()}/releases?said={says}")

    # --- ledger ---

    def _ledger(self, request: Request) -> Response:
        names = {one.digest: one.name for one in self._home.store.studies()}
        found = ledger.charges(self._home.store)
        groups = dict.fromkeys((one.study.hex(), one.month) for one in found)
        totals = ledger.by_study_and_month(found, names)
        return self._page("ledger", request, rows=list(zip(groups, totals, strict=True)), listed=listed)

    def _entries(self, request: Request) -> Response:
        digest, month = request.path_params["digest"], request.path_params["month"]
        found = [
            one
            for one in ledger.charges(self._home.store)
            if one.study.hex() == digest and one.month == month
        ]
        if not found:
            raise HTTPException(404)
        names = {one.digest.hex(): one.name for one in self._home.store.studies()}
        return self._page(
            "entries",
            request,
            name=names.get(digest, digest[:8]),
            month=month,
            entries=found[-_MOST_ENTRIES:],
            more=max(0, len(found) - _MOST_ENTRIES),
        )

    def _close(self, request: Request) -> Response:
        page = self._page("closed", request)
        self._door.close()
        return page


def _given(request: Request) -> Form:
    form: Form = request.scope[FORM]
    return form


def _one(form: Form, name: str) -> str:
    return form.get(name, [""])[0]


def _to(path: str) -> Response:
    return RedirectResponse(path, 303)


def _http(request: Request, error: Exception) -> Response:  # noqa: ARG001 (a handler's signature)
    status = error.status_code if isinstance(error, HTTPException) else 500
    sentence = "There is no such page, or no such study." if status == 404 else "This can't be done."
    return HTMLResponse(denied(status, sentence, "/"), status)


def _fault(request: Request, error: Exception) -> Response:  # noqa: ARG001 (a handler's signature)
    return HTMLResponse(denied(500, fault(error), "/"), 500)


def _wrong(request: Request, error: Exception) -> Response:
    path = request.url.path.rpartition("/")[0] if request.method == "POST" else ""
    return HTMLResponse(denied(409, str(error), path or "/"), 409)
