"""What exchangers said to an unknown client, another mail server, as the probe of kind mx is one.

Enhanced status codes: RFC 3463.
"""

from __future__ import annotations

from functools import partial

from mailwatch.model import Cause, Kind, Phase
from tests.dialogues.dialogue import UP, Dialogue, Step, Then, not_up

_mx = partial(Dialogue, kind=Kind.MX)
GREETING, SUBMIT = Phase.GREETING, Phase.SUBMIT
THROTTLED, OFFLINE, UNAVAILABLE = Cause.THROTTLED, Cause.OFFLINE, Cause.UNAVAILABLE

DIALOGUES = (
    _mx(
        name="icloud-blocked-in-the-greeting",
        steps=(
            Step(
                "CONNECT", "554 5.7.0 Blocked - see https://x.example/dnsbl-lookup.cgi?ip=203.0.113.7", Then.CLOSE
            ),
        ),
        right=not_up(GREETING, OFFLINE),
        source="zone-mta #301",
        why="Our address is on a blocklist; others are served.",
    ),
    _mx(
        name="not-allowed-to-connect",
        steps=(Step("CONNECT", "554 5.7.1 You are not allowed to connect.", Then.CLOSE),),
        right=not_up(GREETING, OFFLINE),
        source="zone-mta pull request 496; Mail-in-a-Box #1194",
        why="We are not, others are.",
    ),
    _mx(
        name="orange-in-two-languages",
        steps=(
            Step(
                "CONNECT",
                "550 mwinf5c14 ME Adresse IP source bloquee pour incident de spam. Client host blocked for "
                "spamming issues. OFR006_102 Ref http://x.example/?ip=203.0.113.7 [102]",
                Then.CLOSE,
            ),
        ),
        right=not_up(GREETING, OFFLINE),
        source="smtp-field-manual pull request 60",
        why="Our address is blocked.",
    ),
    _mx(
        name="gmx-block-listed-in-the-third-line",
        steps=(
            Step(
                "CONNECT",
                "554-gmx.example (mxgmx104) Nemesis ESMTP Service not available\n554-No SMTP service\n"
                "554-IP address is block listed.\n554 For explanation visit https://x.example/case?i=203.0.113.7",
                Then.CLOSE,
            ),
        ),
        right=not_up(GREETING, OFFLINE),
        source="GMX Postmaster, Error messages",
        why="The lines that say 'not available' are the form; the third gives the reason.",
        pieces=11,
    ),
    _mx(
        name="icloud-listed-at-rcpt",
        steps=(Step("RCPT", "550 5.7.1 Mail from IP 203.0.113.7 was rejected due to listing in Spamhaus SBL."),),
        right=not_up(SUBMIT, OFFLINE),
        source="check-if-email-exists #1065",
        why="Our address is on a blocklist, though the recipient was named already.",
    ),
    _mx(
        name="ionos-policy-violations-4xx",
        steps=(Step("MAIL", "421 Reject due to policy violations", Then.CLOSE),),
        right=not_up(SUBMIT, OFFLINE, THROTTLED),
        source="1&1, SMTP Error Messages for the 1&1 Mail Server",
        why="The page explains it by our address, which is blocked for a while.",
    ),
    _mx(
        name="ionos-rate-limit",
        steps=(Step("MAIL", "421 Rate limit reached. Please try again later", Then.CLOSE),),
        right=not_up(SUBMIT, THROTTLED),
        source="1&1, SMTP Error Messages for the 1&1 Mail Server",
        why="We come too often.",
    ),
    _mx(
        name="ionos-local-error",
        steps=(Step("RCPT", "451 Requested action aborted: local error in processing"),),
        right=not_up(SUBMIT, UNAVAILABLE),
        source="1&1, SMTP Error Messages for the 1&1 Mail Server",
        why="The page: the service was unavailable for a time.",
    ),
    _mx(
        name="no-reverse-name-4xx",
        steps=(Step("RCPT", "450 4.7.1 Client host rejected: cannot find your reverse hostname, [203.0.113.7]"),),
        right=not_up(SUBMIT, OFFLINE),
        source="Bytecamp, Fehlermeldungen bei Zustellproblemen",
        why="Our line has no reverse name.",
    ),
    _mx(
        name="greylisted",
        steps=(Step("RCPT", "450 4.2.0 <alice@example.org>: Recipient address rejected: Greylisted"),),
        right=not_up(SUBMIT, THROTTLED),
        source="Bytecamp, Fehlermeldungen bei Zustellproblemen",
        why="A stranger is made to wait; who waits is served.",
    ),
    _mx(
        name="too-many-connections-from-us",
        steps=(
            Step("CONNECT", "421 4.7.0 mx1.example.org Error: too many connections from 203.0.113.7", Then.CLOSE),
        ),
        right=not_up(GREETING, THROTTLED),
        source="Bytecamp, Fehlermeldungen bei Zustellproblemen",
        why="Our own connections are too many.",
    ),
    _mx(
        name="orange-trop-de-connexions",
        steps=(
            Step(
                "CONNECT",
                "421 mwinf5c42 ME Trop de connexions, veuillez verifier votre configuration. "
                "Too many connections, slow down. OFR004_104 [104]",
                Then.CLOSE,
            ),
        ),
        right=not_up(GREETING, THROTTLED),
        source="Suped, How to troubleshoot Postfix 'too many connections' errors after upgrading",
        why="Our own connections are too many.",
    ),
    _mx(
        name="found-in-a-blocklist-as-spam",
        steps=(Step("RCPT", "554 Rejected as spam 203.0.113.7 found in dnsbl.sorbs.net"),),
        right=not_up(SUBMIT, OFFLINE),
        source="va.ler.io, Posta che rifiutiamo considerandola Spam",
        why="Our address is on a blocklist; no message was shown that could be spam.",
    ),
    _mx(
        name="eolo-blocked-using-a-list",
        steps=(
            Step(
                "RCPT",
                "554 Service unavailable; Client host [203.0.113.7] blocked using rbl.example.org; For more "
                "information see http://x.example/lookup?ip_address=203.0.113.7",
            ),
        ),
        right=not_up(SUBMIT, OFFLINE),
        source="Eolo, Blacklist e mancata ricezione di un messaggio",
        why="'Service unavailable' is the form; our address is on a blocklist.",
    ),
    _mx(
        name="yahoo-tss04",
        steps=(
            Step(
                "MAIL",
                "421 4.7.0 [TSS04] Messages from 203.0.113.7 temporarily deferred due to unexpected volume or "
                "user complaints - 4.16.55.1; see https://x.example/error-codes",
                Then.CLOSE,
            ),
        ),
        right=not_up(SUBMIT, THROTTLED, OFFLINE),
        source="smtp.codes, Yahoo",
        why="It is about what comes from our address.",
    ),
    _mx(
        name="yahoo-resources-unavailable",
        steps=(Step("CONNECT", "421 Resources temporarily unavailable. Please try again later.", Then.CLOSE),),
        right=not_up(GREETING, UNAVAILABLE),
        source="Yahoo help, My email is being blocked",
        why="The page: their servers are too busy. No limit of ours.",
    ),
    _mx(
        name="yahoo-internal-server-error",
        steps=(Step("RCPT", "451 4.3.2 Internal server error"),),
        right=not_up(SUBMIT, UNAVAILABLE),
        source="smtp.codes, Yahoo",
        why="The server's own trouble.",
    ),
    _mx(
        name="outlook-rate-limited-for-reputation",
        steps=(
            Step(
                "MAIL",
                "451 4.7.651 The mail server [203.0.113.7] has been temporarily rate limited due to reputation.",
            ),
        ),
        right=not_up(SUBMIT, THROTTLED, OFFLINE),
        source="smtp-field-manual pull request 89",
        why="Our address.",
    ),
    _mx(
        name="outlook-server-busy-for-us",
        steps=(Step("MAIL", "451 4.7.500 Server busy. Please try again later from [203.0.113.7]. (S77719)"),),
        right=not_up(SUBMIT, THROTTLED, OFFLINE),
        source="OfficeDocs-Exchange #2499",
        why="The documentation explains it by our address, which sends more than it used to; not by the server.",
    ),
    _mx(
        name="gmail-ip-not-in-whitelist",
        steps=(Step("RCPT", "421 4.7.0 IP not in whitelist for RCPT domain, closing connection.", Then.CLOSE),),
        right=not_up(SUBMIT, OFFLINE, THROTTLED),
        source="Newsletter Studio, Errori SMTP",
        why="Our address is not on the list; others are.",
    ),
    _mx(
        name="a-banner-of-three-lines",
        steps=(
            Step(
                "CONNECT",
                "220-mx1.example.org ESMTP Exim\n220-No bulk e-mail by this system.\n220 ",
            ),
        ),
        right=UP,
        source="Mailspring #1145",
        why="A greeting may have several lines (RFC 5321, section 4.2); a warning in it is no refusal.",
    ),
)
