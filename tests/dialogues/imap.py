"""What IMAP servers said. Response codes: RFC 9051, section 7.1, and RFC 5530."""

from __future__ import annotations

from functools import partial

from mailwatch.model import Cause, Kind, Phase
from tests.dialogues.dialogue import UP, Dialogue, Step, Then, not_up

_imap = partial(Dialogue, kind=Kind.IMAP)
GREETING, AUTH, MAILBOX, FETCH = Phase.GREETING, Phase.AUTH, Phase.MAILBOX, Phase.FETCH
THROTTLED, CREDENTIALS, UNAVAILABLE = Cause.THROTTLED, Cause.CREDENTIALS, Cause.UNAVAILABLE
PLAIN_HELLO = Step("CONNECT", "* OK IMAP4 ready")
"""A greeting without capabilities, so that they are asked for."""

_GREETING = (
    _imap(
        name="yandex-autologout-at-once",
        steps=(
            PLAIN_HELLO,
            Step("CAPABILITY", "\n".join(["* BYE Autologout; idle for too long"] * 5), Then.CLOSE),
        ),
        right=not_up(GREETING, UNAVAILABLE, Cause.DISCONNECTED),
        source="MailKit #938",
        why="The server hangs up on a client that was never idle.",
    ),
    _imap(
        name="exchange-bye-as-greeting",
        steps=(Step("CONNECT", "* BYE Connection is closed. 14", Then.CLOSE),),
        right=not_up(GREETING, UNAVAILABLE),
        source="MailKit #262 (the words from #849)",
        why="BYE as a greeting is a refusal (RFC 9051, section 7.1.5), and no reason of ours is named.",
    ),
    _imap(
        name="pop3-on-the-imap-port",
        steps=(Step("CONNECT", "+OK The POP3 service is ready."),),
        right=not_up(GREETING, Cause.PROTOCOL),
        source="CPython pull request 152768",
        why="Another protocol; a line that begins with + is no greeting of IMAP.",
    ),
    _imap(
        name="yahoo-rate-limit-behind-bye",
        steps=(
            PLAIN_HELLO,
            Step(
                "CAPABILITY",
                "* BYE IMAP4rev1 Server logging out\n{tag} NO [LIMIT] CAPABILITY Rate limit hit.",
                Then.CLOSE,
            ),
        ),
        right=not_up(GREETING, THROTTLED),
        source="imapflow #75",
        why="The BYE is the form; the tagged NO behind it gives the reason, a limit of ours.",
    ),
    _imap(
        name="yahoo-rate-limit-behind-bye-in-pieces",
        steps=(
            Step(
                "LOGIN", "* BYE IMAP4rev1 Server logging out\n{tag} NO [LIMIT] LOGIN Rate limit hit.", Then.CLOSE
            ),
        ),
        right=not_up(AUTH, THROTTLED),
        source="imapflow #75",
        why="The same reason, however the bytes are cut into packets.",
        pieces=9,
    ),
    _imap(
        name="icloud-strange-capabilities-and-ok",
        steps=(
            Step(
                "CONNECT", "* OK [CAPABILITY p11mm-iscream022 15E205 IMAP4 IMAP4rev1 AUTH=ATOKEN] ready to rumble"
            ),
            Step("LOGIN", "{tag} OK !!"),
        ),
        right=UP,
        source="imapfilter #125",
        why="Unknown capabilities are no fault, and the words after OK mean nothing.",
    ),
    _imap(
        name="gmail-thats-all-she-wrote",
        steps=(
            Step("CONNECT", "* OK Gimap ready for requests from 203.0.113.7 y17mb198681361pak"),
            Step("CAPABILITY", "* CAPABILITY IMAP4rev1 ID XYZZY SASL-IR\n{tag} OK Thats all she wrote! y17mb1"),
        ),
        right=UP,
        source="mailcore2 #975",
        why="Valid, if chatty.",
    ),
)

_LOGIN = (
    _imap(
        name="gmail-too-many-simultaneous",
        steps=(Step("LOGIN", "{tag} NO [ALERT] Too many simultaneous connections. (Failure)"),),
        right=not_up(AUTH, THROTTLED),
        source="wildduck #35",
        why="Gmail's limit of 15 connections of one account: ours.",
    ),
    _imap(
        name="icloud-bad-unavailable",
        steps=(Step("LOGIN", "{tag} BAD [UNAVAILABLE] Service temporarily unavailable"),),
        right=not_up(AUTH, UNAVAILABLE),
        source="mailcore2 pull request 1642",
        why="The code and the words both name the service, though it says BAD.",
    ),
    _imap(
        name="tiscali-account-temporarily-unavailable",
        steps=(Step("LOGIN", "{tag} NO Account is temporarily unavailable."),),
        right=not_up(AUTH, UNAVAILABLE),
        source="ilsoftware.it, Mail Tiscali non funziona (January 2024)",
        why="An outage of all accounts of the provider.",
    ),
    _imap(
        name="yandex-imap-disabled",
        steps=(
            Step("LOGIN", "{tag} NO [AUTHENTICATIONFAILED] LOGIN invalid credentials or IMAP is disabled sc=x1_4"),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="Mailspring #2111",
        why="IMAP is a setting that the owner has to switch on; 'disabled' is not the server's state.",
    ),
    _imap(
        name="gmail-application-password",
        steps=(
            Step(
                "LOGIN", "{tag} NO [ALERT] Application-specific password required: https://x.example/1 (Failure)"
            ),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="mutt-wizard #831",
        why="The owner has to make another password.",
    ),
    _imap(
        name="purelymail-app-password",
        steps=(Step("LOGIN", "{tag} NO Login failed - please create an app password"),),
        right=not_up(AUTH, CREDENTIALS),
        source="purelymail-issues #337",
        why="The owner has to make another password.",
    ),
    _imap(
        name="qq-all-reasons-in-one",
        steps=(
            Step(
                "LOGIN",
                "{tag} NO Login fail. Account is abnormal, service is not open, password is incorrect, "
                "login frequency limited, or system is busy.",
            ),
        ),
        right=not_up(AUTH, CREDENTIALS, THROTTLED),
        source="cursor-auto-free #294",
        why="Five reasons, four of them the owner's or ours: this proves no outage.",
    ),
    _imap(
        name="proton-bridge-user-not-found",
        steps=(Step("LOGIN", "{tag} NO user mrossi@example.org not found"),),
        right=not_up(AUTH, CREDENTIALS),
        source="mutt-wizard #500",
        why="The name is not known there.",
    ),
    _imap(
        name="dovecot-internal-error-at-login",
        steps=(Step("LOGIN", "{tag} NO Internal error occurred. Refer to server log for more information."),),
        right=not_up(AUTH, UNAVAILABLE),
        source="modoboa-webmail #51",
        why="The server's own trouble, without a code.",
    ),
    _imap(
        name="free-wrong-password-and-hangs-up",
        steps=(Step("LOGIN", "{tag} NO Invalid login or password", Then.CLOSE),),
        right=not_up(AUTH, CREDENTIALS),
        source="MailKit #856",
        why="The reply came before the end of the connection, and it counts.",
    ),
    _imap(
        name="mailu-rate-limit-as-temporary-failure",
        steps=(Step("LOGIN", "{tag} NO Temporary authentication failure (rate-limit)"),),
        right=not_up(AUTH, THROTTLED),
        source="Mailu #2283",
        why="The words in brackets name the limit; 'temporary failure' alone would be the server's.",
    ),
    _imap(
        name="mailu-limit-from-one-source",
        steps=(Step("LOGIN", "{tag} NO Authentication rate limit from one source exceeded", Then.CLOSE),),
        right=not_up(AUTH, THROTTLED),
        source="Mailu #1251",
        why="A limit for our address.",
    ),
    _imap(
        name="proton-bridge-too-many-attempts",
        steps=(Step("LOGIN", "{tag} NO too many login attempts"),),
        right=not_up(AUTH, THROTTLED),
        source="gluon pull request 349",
        why="It checks no password for a while.",
    ),
    _imap(
        name="dovecot-connection-queue-full",
        steps=(Step("LOGIN", "* BYE Connection queue full", Then.CLOSE),),
        right=not_up(AUTH, UNAVAILABLE),
        source="chatmail/relay #59",
        why="The queue is that of all clients; nothing here is a limit of ours.",
    ),
    _imap(
        name="tiscali-in-italian",
        steps=(
            Step(
                "LOGIN",
                "{tag} NO Sistema momentaneamente non disponibile, ti preghiamo di riprovare più tardi",
            ),
        ),
        right=not_up(AUTH, UNAVAILABLE),
        source="ilsoftware.it, Mail Tiscali non funziona (January 2024; there the text of the webmail)",
        why="A passing failure of the service, in Italian.",
    ),
    _imap(
        name="exchange-login-failed",
        steps=(Step("LOGIN", "{tag} NO LOGIN failed."),),
        right=not_up(AUTH, CREDENTIALS),
        source="MailKit #483",
        why="Exchange says no more when the password is wrong.",
    ),
    _imap(
        name="exchange-command-error-at-login",
        steps=(Step("LOGIN", "{tag} BAD Command Error. 10"),),
        right=not_up(AUTH, Cause.PROTOCOL, UNAVAILABLE),
        source="node-imap #381",
        why="The same command was taken until those days.",
    ),
)

_MAILBOX = (
    _imap(
        name="interia-enable-imap-first",
        steps=(
            Step("LOGIN", "{tag} OK [ALERT] Please enable IMAP access in your account settings first."),
            *(
                Step(name, "{tag} NO [ALERT] Please enable IMAP access in your account settings first.")
                for name in ("EXAMINE", "SELECT", "CAPABILITY", "ID")
            ),
        ),
        right=not_up(MAILBOX, CREDENTIALS),
        source="MailKit #860",
        why="A setting of the owner, though the login itself is OK.",
    ),
    _imap(
        name="interia-enable-imap-untagged",
        steps=(
            Step("LOGIN", "{tag} OK [ALERT] Please enable IMAP access in your account settings first."),
            *(
                Step(name, "* BAD [ALERT] Please enable IMAP access in your account settings first.", Then.SILENCE)
                for name in ("EXAMINE", "SELECT")
            ),
        ),
        right=not_up(MAILBOX, CREDENTIALS),
        source="MailKit #860",
        why="Nothing tagged ever comes, but the untagged line, as the one before it, names the owner's setting.",
        timeout=10,
    ),
    _imap(
        name="dovecot-serverbug-at-select",
        steps=(
            Step(
                "EXAMINE", "{tag} NO [SERVERBUG] Internal error occurred. Refer to server log. [2022-07-07 18:46]"
            ),
        ),
        right=not_up(MAILBOX, Cause.MAILBOX, UNAVAILABLE),
        source="imapsync #346",
        why="The server's own trouble with an account that it let in.",
    ),
    _imap(
        name="exchange-server-unavailable-15",
        steps=(Step("EXAMINE", "{tag} NO Server Unavailable. 15"),),
        right=not_up(MAILBOX, Cause.MAILBOX, UNAVAILABLE),
        source="offlineimap #291",
        why="The server's own trouble with an account that it let in.",
    ),
    _imap(
        name="yahoo-not-valid-in-this-state",
        steps=(Step("EXAMINE", "{tag} BAD [CLIENTBUG] EXAMINE Command is not valid in this state"),),
        right=not_up(MAILBOX, Cause.PROTOCOL, Cause.MAILBOX, UNAVAILABLE),
        source="gophish #1746; go-imap #410",
        why="It answered OK to the login and forgot it: we are in the right state.",
    ),
    _imap(
        name="cyrus-system-io-error",
        steps=(Step("EXAMINE", "{tag} NO System I/O error"),),
        right=not_up(MAILBOX, Cause.MAILBOX, UNAVAILABLE),
        source="cyrus-imapd #94 (there in answer to EXPUNGE)",
        why="The disk of the server.",
    ),
    _imap(
        name="exchange-bye-at-examine",
        steps=(Step("EXAMINE", "* BYE Connection is closed. 14", Then.CLOSE),),
        right=not_up(MAILBOX, UNAVAILABLE, Cause.MAILBOX, Cause.DISCONNECTED),
        source="MailKit #849",
        why="The server hangs up, and no limit is named.",
    ),
    _imap(
        name="exchange-bye-at-fetch-in-pieces",
        steps=(Step("FETCH", "* BYE Connection is closed. 13", Then.CLOSE),),
        right=not_up(FETCH, UNAVAILABLE, Cause.MAILBOX, Cause.DISCONNECTED),
        source="node-imap #561",
        why="The server hangs up, and no limit is named.",
        pieces=1,
    ),
    _imap(
        name="yahoo-server-error-at-fetch",
        steps=(Step("FETCH", "{tag} NO [UNAVAILABLE] FETCH Server error while fetching messages"),),
        right=not_up(FETCH, Cause.MAILBOX, UNAVAILABLE),
        source="imapsync #119",
        why="The message cannot be read, and the server says that it is the server's error.",
    ),
    _imap(
        name="yahoo-rate-limit-at-examine",
        steps=(Step("EXAMINE", "* BYE IMAP4rev1 Server logging out\n{tag} NO [LIMIT] EXAMINE Rate limit hit."),),
        right=not_up(MAILBOX, THROTTLED),
        source="imapflow #75 (there after SELECT in other sessions of the same account)",
        why="A limit stays a limit after the login; it is not the mailbox.",
    ),
    _imap(
        name="qq-space-before-the-last-bracket",
        steps=(
            Step(
                "FETCH",
                "* 3 FETCH (BODY[HEADER.FIELDS (DATE)] {11}\nDate: x\n\n )\n{tag} OK done",
            ),
        ),
        right=UP,
        source="Jakarta Mail #209",
        why="Not quite the grammar, but the header is there.",
    ),
    _imap(
        name="status-without-any-text",
        steps=(Step("LOGIN", "{tag} OK"), Step("ID", "* ID NIL\n{tag} OK")),
        right=UP,
        source="swift-nio-imap pull request 550",
        why="Servers leave the text out; OK is OK.",
    ),
    _imap(
        name="recent-in-the-middle-of-the-fetch",
        steps=(
            Step(
                "FETCH",
                "* 1 RECENT\n* 3 FETCH (BODY[HEADER.FIELDS (DATE)] {11}\nDate: x\n\n)\n* 2 RECENT\n{tag} OK done",
            ),
        ),
        right=UP,
        source="rust-imap #81",
        why="A server may say untagged what it likes at any time (RFC 9051, section 7).",
        pieces=5,
    ),
    _imap(
        name="bye-without-text",
        steps=(Step("LOGOUT", "* BYE\n{tag} OK LOGOUT completed"),),
        right=UP,
        source="dbmail #46",
        why="The goodbye is no part of the verdict.",
    ),
)

DIALOGUES = (*_GREETING, *_LOGIN, *_MAILBOX)
