"""The management page: mailboxes, notification channels and the time zone, as the config on disk has them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response

from mailwatch.config.channels import INVALID_ADDRESS
from mailwatch.config.zones import find_zone
from mailwatch.i18n import Language
from mailwatch.setup.pages import pages_hash, password_problem
from mailwatch.web.frame import Frame, PageRoute, page_of
from mailwatch.web.manage.channels import SERVICES, read_channel
from mailwatch.web.manage.forms import Form
from mailwatch.web.manage.mailbox_pages import FormHandler, MailboxPages, finish, form_route, root_of
from mailwatch.web.manage.mailbox_setup import RejectedLogins
from mailwatch.web.manage.sessions import FormSession, FormSessions
from mailwatch.web.manage.texts import texts
from mailwatch.web.manage.zones import listed_zones
from mailwatch.web.management import (
    ConfigChangedMeanwhileError,
    ConfigEntries,
    Management,
    ManagementError,
)
from mailwatch.web.public_shapes import AnyIncidentJson

BASE = "manage"
MAILBOX, CHANNEL = f"{BASE}/mailbox", f"{BASE}/channel"


class ManagePages:
    """The pages of management."""

    def __init__(
        self, frame: Frame, management: Management, sessions: FormSessions, rejected: RejectedLogins
    ) -> None:
        self._frame, self._management, self._sessions = frame, management, sessions
        self._mailbox = MailboxPages(frame, management, MAILBOX, rejected, sessions.of, self._is_known)

    def routes(self) -> list[PageRoute]:
        """Return the routes."""
        forms: dict[str, FormHandler] = {
            "check": self._check,
            "pause": self._pause,
            "resume": self._resume,
            "remove": self._remove,
            "test-channel": self._test_channel,
            "remove-channel": self._remove_channel,
            "timezone": self._timezone,
            "password": self._password,
            "acknowledge": self._acknowledge,
            "remind-again": self._remind_again,
        }
        posted = [
            PageRoute(
                path=f"/{BASE}/{name}", answer=form_route(self._sessions.of, handler, BASE), methods=("POST",)
            )
            for name, handler in forms.items()
        ]
        return [
            PageRoute(path=f"/{BASE}", answer=self._page),
            *posted,
            PageRoute(path=f"/{MAILBOX}", answer=self._mailbox_page),
            PageRoute(path=f"/{MAILBOX}/save", answer=self._mailbox.form(self._save), methods=("POST",)),
            *self._mailbox.routes(),
            PageRoute(path=f"/{CHANNEL}", answer=self._channel_page),
            PageRoute(path=f"/{CHANNEL}", answer=self._form(self._add_channel), methods=("POST",)),
        ]

    def _form(self, handle: FormHandler) -> Callable[[Request], Awaitable[Response]]:
        return form_route(self._sessions.of, handle, BASE)

    async def _page(
        self,
        request: Request,
        q: Annotated[str, Query(max_length=200)] = "",
        page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    ) -> Response:
        session, word = self._sessions.of(request), ""
        if session is None:
            session, word = self._sessions.create()
        if session.saved is not None:
            untested = session.mailbox is not None and session.mailbox.is_untested
            session.notice = ("added_untested" if untested else "added", ", ".join(session.saved.targets))
            session.saved = session.mailbox = None
        try:
            entries = await self._management.entries()
            problem = entries.mistakes
        except ManagementError as error:
            entries, problem = None, str(error)
        incidents = await asyncio.to_thread(partial(self._frame.read_model.incidents, only_open=True))
        answer = self._respond(request, session, entries, problem, incidents, q, page)
        if word:
            # The cookie of a session covers what is beside the page that opens it: this one, above all others.
            self._sessions.give(request, answer, word)
        session.notice = None
        session.forget_form()
        return answer

    def _respond(
        self,
        request: Request,
        session: FormSession,
        entries: ConfigEntries | None,
        problem: str,
        incidents: Sequence[AnyIncidentJson],
        q: str,
        page: int,
    ) -> Response:
        wanted = q.casefold().strip()
        found = [each for each in (entries.mailboxes if entries else ()) if wanted in each.name.casefold()]
        visible, pages = page_of(found, page)
        return self._frame.respond(
            request,
            "manage/manage.html",
            BASE,
            m=texts(self._frame.language(request)).loaded,
            base=BASE,
            step="",
            session=session,
            entries=entries,
            problem=problem,
            incidents=incidents,
            mailboxes=visible,
            states={each["target"]: each for each in self._frame.read_model.targets()},
            q=q,
            page=page,
            pages=pages,
            zones=listed_zones(),
        )

    async def _mailbox_page(self, request: Request) -> Response:
        session = self._sessions.of(request)
        if session is None or session.saved is not None or await self._read_only():
            return RedirectResponse(root_of(request) + BASE, 303)
        return self._mailbox.respond(request, session)

    async def _channel_page(
        self, request: Request, service: Annotated[str, Query(max_length=20)] = "ntfy"
    ) -> Response:
        session = self._sessions.of(request)
        if session is None or service not in SERVICES or await self._read_only():
            return RedirectResponse(root_of(request) + BASE, 303)
        answer = self._frame.respond(
            request,
            "manage/channel.html",
            BASE,
            m=texts(self._frame.language(request)).loaded,
            base=CHANNEL,
            step="",
            session=session,
            service=service,
            services=list(SERVICES),
            fields=SERVICES[service].fields,
        )
        session.forget_form()
        return answer

    async def _is_known(self, address: str) -> bool:
        entries = await self._management.entries()
        return any(each.name.casefold() == address.casefold() for each in entries.mailboxes)

    async def _read_only(self) -> bool:
        try:
            entries = await self._management.entries()
            return bool(entries.read_only or entries.mistakes)
        except ManagementError:
            return True

    # The forms

    async def _save(self, session: FormSession, form: Form) -> None:
        mailbox = self._mailbox.mailbox(session)
        answers = mailbox.answers()
        if answers is None or session.saved is not None:
            return
        try:
            session.saved = await self._management.add_mailbox(answers, _language(form))
        except ManagementError as error:
            session.refuse({"save": str(error)})
        else:
            finish(session)

    async def _check(self, session: FormSession, form: Form) -> None:
        name = form.text("name")
        entry = next((each for each in (await self._management.entries()).mailboxes if each.name == name), None)
        if entry is not None:
            asked = self._management.check_now(entry.targets)
            session.notice = ("checking" if asked else "checked", name)

    async def _pause(self, session: FormSession, form: Form) -> None:
        await self._management.pause_mailbox(form.text("name"), True, form.text("digest"))
        session.notice = ("paused", form.text("name"))

    async def _resume(self, session: FormSession, form: Form) -> None:
        await self._management.pause_mailbox(form.text("name"), False, form.text("digest"))
        session.notice = ("resumed", form.text("name"))

    async def _remove(self, session: FormSession, form: Form) -> None:
        await self._management.remove_mailbox(form.text("name"), form.text("digest"))
        session.notice = ("removed", form.text("name"))

    async def _acknowledge(self, session: FormSession, form: Form) -> None:
        await self._management.acknowledge(form.text("name"), form.text("note"), withdraw=False)
        session.notice = ("acknowledged", form.text("name"))

    async def _remind_again(self, session: FormSession, form: Form) -> None:
        await self._management.acknowledge(form.text("name"), "", withdraw=True)
        session.notice = ("reminding", form.text("name"))

    async def _test_channel(self, session: FormSession, form: Form) -> None:
        name = form.text("name")
        why = await self._management.test_channel(name)
        session.notice = ("not_sent", why) if why else ("sent", name)

    async def _remove_channel(self, session: FormSession, form: Form) -> None:
        await self._management.remove_channel(form.text("name"), form.text("digest"))
        session.notice = ("removed", form.text("name"))

    async def _timezone(self, session: FormSession, form: Form) -> None:
        zone = find_zone(form.text("timezone"))
        if not zone:
            session.refuse({"timezone": "unknown"}, {"timezone": form.text("timezone")})
            return
        await self._management.set_timezone(zone, form.text("digest"))
        session.notice = ("timezone", zone)

    async def _password(self, session: FormSession, form: Form) -> None:
        given = form.secret("password")
        if wrong := password_problem(given):
            session.refuse({"password": wrong})
        elif given != form.secret("again"):
            session.refuse({"again": "differs"})
        else:
            hashed = await asyncio.to_thread(pages_hash, given)
            await self._management.set_pages_password(hashed, form.text("digest"))
            session.notice = ("password", "")

    async def _add_channel(self, session: FormSession, form: Form) -> str:
        """Add a channel, and return the page that follows: its form again if something is wrong."""
        service = form.text("service")
        if service not in SERVICES:
            return BASE
        answers = read_channel(service, form)
        errors = dict(answers.errors)
        if not errors:
            try:
                await self._management.add_channel(answers.name, answers.url, _language(form))
            except ConfigChangedMeanwhileError:
                errors["form"] = "changed"
            except ManagementError as error:
                errors |= _beside_fields(service, error) or {"form": str(error)}
        if not errors:
            session.notice = ("channel_added", answers.name)
            return BASE
        shown = {field.name: form.text(field.name) for field in SERVICES[service].fields if not field.secret}
        session.refuse(errors, {**shown, "name": answers.name})
        return f"{CHANNEL}?service={service}"


def _beside_fields(service: str, error: ManagementError) -> dict[str, str]:
    """Return the reasons of an error by the fields of the form of a channel; none if one has no field there."""
    address = "url" if any(field.name == "url" for field in SERVICES[service].fields) else "form"
    fields = {"name": "name", "url_file": address}
    if not error.fields.keys() <= fields.keys():
        return {}
    # Below a field stands a sentence of its own, not what follows a key of the config.
    worded = {fields[key]: what for key, what in error.fields.items()}
    return worded | ({"url": "not_apprise"} if worded.get("url", "").endswith(INVALID_ADDRESS) else {})


def _language(form: Form) -> Language:
    return "it" if form.text("language") == "it" else "en"
