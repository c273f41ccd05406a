"""What submission servers said. AUTH: RFC 4954, section 6; enhanced status codes: RFC 3463."""

from __future__ import annotations

from functools import partial

from mailwatch.model import Cause, Kind, Phase
from tests.dialogues.dialogue import UP, Dialogue, Step, Then, not_up

_smtp = partial(Dialogue, kind=Kind.SMTP)
GREETING, AUTH, SUBMIT = Phase.GREETING, Phase.AUTH, Phase.SUBMIT
THROTTLED, CREDENTIALS = Cause.THROTTLED, Cause.CREDENTIALS
UNAVAILABLE, OFFLINE = Cause.UNAVAILABLE, Cause.OFFLINE

_GREETING = (
    _smtp(
        name="exim-too-many-concurrent",
        steps=(Step("CONNECT", "421 Too many concurrent SMTP connections; please try again later.", Then.CLOSE),),
        right=not_up(GREETING, THROTTLED),
        source="PHPMailer #2070",
        why="Exim's limit of connections; too many of ours cannot be excluded, so no outage is proved.",
    ),
    _smtp(
        name="gmail-temporary-system-problem",
        steps=(Step("CONNECT", "421 4.7.0 Temporary System Problem. Try again later.", Then.CLOSE),),
        right=not_up(GREETING, UNAVAILABLE),
        source="Newsletter Studio, Errori SMTP",
        why="4.7.0 is the class of policy, but the words name the system.",
    ),
    _smtp(
        name="greeting-never-received",
        steps=(Step("CONNECT", "", Then.SILENCE),),
        right=not_up(GREETING, Cause.TIMEOUT),
        source="Nodemailer #1099",
        why="A connection, and then silence.",
        timeout=10,
    ),
    _smtp(
        name="a-warning-in-the-banner",
        steps=(
            Step(
                "CONNECT",
                "220-mail.example.org ESMTP Exim 4.91\n220-We do not authorize the use of this system to "
                "transport\n220 unsolicited, and/or bulk e-mail.",
            ),
        ),
        right=UP,
        source="Mailspring #1145",
        why="A greeting may have several lines (RFC 5321, section 4.2); a warning in it is no refusal.",
        pieces=4,
    ),
    _smtp(
        name="postfix-auth-with-an-equals-sign",
        steps=(
            Step("CONNECT", "220 mail.example.org Esmtp QQ Mail Server"),
            Step("EHLO", "250-mail.example.org\n250-AUTH LOGIN PLAIN\n250-AUTH=LOGIN PLAIN\n250 8BITMIME"),
        ),
        right=UP,
        source="thunderbird-android #8715; vertx-mail-client #46",
        why="A line for the clients of long ago; the one that counts is beside it.",
    ),
    _smtp(
        name="keywords-in-small-letters",
        steps=(Step("EHLO", "250-mail.example.org\n250-size 1000000\n250 auth plain login"),),
        right=UP,
        source="curl #18588",
        why="Keywords are the same in small letters (RFC 5321, section 4.1.1.1).",
    ),
)

_LOGIN = (
    _smtp(
        name="outlook-basic-authentication-disabled",
        steps=(
            Step("AUTH", "535 5.7.139 Authentication unsuccessful, basic authentication is disabled. [x.example]"),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="mailR #107",
        why="The owner has to log in another way.",
    ),
    _smtp(
        name="exchange-smtp-disabled-for-the-tenant",
        steps=(
            Step(
                "AUTH",
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. "
                "Visit https://x.example [x.example]",
            ),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="email-oauth2-proxy #193",
        why="A setting of the owner's organisation.",
    ),
    _smtp(
        name="gmail-cannot-authenticate-for-now",
        steps=(Step("AUTH", "454 4.7.0 Cannot authenticate due to temporary system problem. Try again later."),),
        right=not_up(AUTH, UNAVAILABLE),
        source="yasyf/vc #124",
        why="The server cannot check the password.",
    ),
    _smtp(
        name="postfix-generic-failure",
        steps=(Step("AUTH", "454 4.7.0 Temporary authentication failure: generic failure"),),
        right=not_up(AUTH, UNAVAILABLE),
        source="Zammad #2133",
        why="SASL itself failed, not the password.",
    ),
    _smtp(
        name="postfix-generic-failure-as-535",
        steps=(Step("AUTH", "535 5.7.8 Error: authentication failed: generic failure"),),
        right=not_up(AUTH, UNAVAILABLE),
        source="docker-mailserver #1436",
        why="Postfix could not reach saslauthd: the code says password, the words say that SASL itself failed.",
    ),
    _smtp(
        name="postfix-lost-the-authentication-server",
        steps=(
            Step("AUTH", "454 4.7.0 Temporary authentication failure: Connection lost to authentication server"),
        ),
        right=not_up(AUTH, UNAVAILABLE),
        source="chatmail/relay #441; docker-mailserver #3891",
        why="Two parts of the server have lost each other.",
    ),
    _smtp(
        name="postfix-lost-the-authentication-server-as-535",
        steps=(Step("AUTH", "535 5.7.8 Error: authentication failed: Connection lost to authentication server"),),
        right=not_up(AUTH, UNAVAILABLE),
        source="NeoMutt #2690",
        why="The same with the code of a wrong password; it works again moments later.",
    ),
    _smtp(
        name="exim-unable-to-authenticate-at-present",
        steps=(Step("AUTH", "435 Unable to authenticate at present"),),
        right=not_up(AUTH, UNAVAILABLE),
        source="RainLoop #1373",
        why="The server cannot check the password.",
    ),
    _smtp(
        name="authenticates-too-many-times",
        steps=(Step("AUTH", "535 auth failed (this user authenticate too many times)"),),
        right=not_up(AUTH, THROTTLED),
        source="Nodemailer #1350",
        why="We come too often; the code says password, the words say how often.",
    ),
    _smtp(
        name="outlook-account-locked",
        steps=(Step("AUTH", "535 5.7.139 Authentication unsuccessful, account locked. [x.example]"),),
        right=not_up(AUTH, CREDENTIALS),
        source="gophish #2910",
        why="The owner has to unlock it.",
    ),
    _smtp(
        name="outlook-did-not-meet-the-criteria",
        steps=(
            Step(
                "AUTH",
                "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be "
                "authenticated successfully. Contact your administrator. [x.example]",
            ),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="gophish #3220",
        why="A rule of the owner's organisation.",
    ),
    _smtp(
        name="qq-authorization-code",
        steps=(
            Step(
                "AUTH", "535 Login Fail. Please enter your authorization code to login. More at http://x.example"
            ),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="uptime-kuma #3434",
        why="The owner has to make another password.",
    ),
    _smtp(
        name="qq-in-gbk",
        steps=(
            Step(
                "AUTH",
                b"535 Error: \xc7\xeb\xca\xb9\xd3\xc3\xca\xda\xc8\xa8\xc2\xeb\xb5\xc7\xc2\xbc\xa1\xa3 http://x.example\r\n",
            ),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="qqbot #221",
        why="Bytes that are no UTF-8 do no harm, and 535 is 535.",
    ),
    _smtp(
        name="gmail-web-browser-in-eight-lines",
        steps=(
            Step(
                "AUTH",
                "534-5.7.14 <https://x.example/signin/continue?sarp=1&scc=1&plt=AKgnsbt-\n"
                "534-5.7.14 zPXsOHyn-XdTEcwxO9GPxKmPeT8WKUiz8l2gMTpoaq\n534-5.7.14 PEumDrVIlCQgaOORuCaq_UPsumE\n"
                "534-5.7.14 oxk1xidpoaostbBu24bi7IWN_wvO8> Please log in via your web browser and\n"
                "534-5.7.14 then try again.\n534-5.7.14 Learn more at\n534 5.7.14 https://x.example/78754 - gsmtp",
            ),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="node-red-nodes #284",
        why="'then try again' is for the owner, who has to log in with a browser first.",
    ),
    _smtp(
        name="gmail-web-login-required-in-pieces",
        steps=(
            Step(
                "AUTH",
                "534-5.7.9 Please log in with your web browser and then try again. Learn more at\n"
                "534 5.7.9  https://x.example/?p=WebLoginRequired - gsmtp",
            ),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="mealie #2395",
        why="The same, however the bytes are cut into packets.",
        pieces=7,
    ),
    _smtp(
        name="netease-no-permission",
        steps=(Step("AUTH", "550 User has no permission"),),
        right=not_up(AUTH, CREDENTIALS),
        source="12306 #62; open-falcon/mail-provider #6",
        why="The owner has to switch SMTP on.",
    ),
    _smtp(
        name="tiscali-password-too-simple",
        steps=(Step("AUTH", "535 5.7.0 authentication rejected: your password is too simple"),),
        right=not_up(AUTH, CREDENTIALS),
        source="mailcore2 pull request 1517",
        why="The owner has to choose a better password.",
    ),
    _smtp(
        name="mailu-rate-limit",
        steps=(Step("AUTH", "451 4.3.2 Temporary authentication failure (rate-limit)", Then.CLOSE),),
        right=not_up(AUTH, THROTTLED),
        source="Mailu #2283 (the same words as over IMAP)",
        why="The words in brackets name the limit; the code alone would be the server's trouble.",
    ),
)

_SUBMIT = (
    _smtp(
        name="outlook-concurrent-connections",
        steps=(
            Step("MAIL", "432 4.3.2 Concurrent connections limit exceeded. Visit https://x.example/concurrent"),
        ),
        right=not_up(SUBMIT, THROTTLED),
        source="fastapi-mail #75",
        why="Three connections of one account at a time.",
    ),
    _smtp(
        name="outlook-submission-quota",
        steps=(Step("RCPT", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"),),
        right=not_up(SUBMIT, THROTTLED),
        source="OfficeDocs-Support #1150",
        why="The limit of the day, said with 5xx.",
    ),
    _smtp(
        name="zoho-unusual-sending-activity",
        steps=(
            Step("MAIL", "550 5.4.6 Unusual sending activity detected. Learn more. To unblock: https://x.example"),
        ),
        right=not_up(SUBMIT, THROTTLED, CREDENTIALS),
        source="Cachet #3052",
        why="The account is blocked for what it sends, until the owner unblocks it.",
    ),
    _smtp(
        name="intrusion-prevention",
        steps=(Step("MAIL", "421 4.7.1 Intrusion prevention active for [203.0.113.7][R]", Then.CLOSE),),
        right=not_up(SUBMIT, THROTTLED, OFFLINE),
        source="smtp-validate-email #9",
        why="Our address, after a hundred requests.",
    ),
    _smtp(
        name="postfix-too-many-errors",
        steps=(Step("MAIL", "421 4.7.0 mail.example.org Error: too many errors", Then.CLOSE),),
        right=not_up(SUBMIT, THROTTLED),
        source="smallcontactform #112",
        why="Postfix counts what the client did (smtpd_hard_error_limit), not what the server lacks.",
    ),
    _smtp(
        name="ses-throttling-failure",
        steps=(Step("MAIL", "454 Throttling failure: Maximum sending rate exceeded."),),
        right=not_up(SUBMIT, THROTTLED),
        source="Nodemailer #436",
        why="We send too fast.",
    ),
    _smtp(
        name="outlook-access-denied-for-now",
        steps=(Step("RCPT", "451 4.7.500 Access denied, please try again later. (AS112201)"),),
        right=not_up(SUBMIT, THROTTLED, OFFLINE),
        source="MailKit #1502",
        why="4.7.5xx of Exchange Online is about our address and how much comes from it.",
    ),
    _smtp(
        name="outlook-traffic-not-accepted",
        steps=(
            Step(
                "RCPT",
                "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP. AS(7230)",
            ),
        ),
        right=not_up(SUBMIT, OFFLINE, THROTTLED),
        source="office365-mail #11",
        why="The address; 'service unavailable' is the form.",
    ),
    _smtp(
        name="tre-blacklisted-address",
        steps=(Step("MAIL", "550 mail not accepted from blacklisted IP address [203.0.113.7]"),),
        right=not_up(SUBMIT, OFFLINE),
        source="computerprogrammi.com, Posta elettronica: è impossibile inviare (2010)",
        why="Our address is on a blocklist.",
    ),
    _smtp(
        name="postfix-helo-must-be-fully-qualified",
        steps=(Step("RCPT", "504 5.5.2 <[127.0.0.1]>: Helo command rejected: need fully-qualified hostname"),),
        right=not_up(SUBMIT, OFFLINE),
        source="Mailu #115",
        why="The name in our EHLO is not to its taste; Postfix says so at RCPT only.",
    ),
    _smtp(
        name="netfabric-daily-limit",
        steps=(Step("RCPT", "550 5.7.1 MAX RCPT TO DAILY LIMIT"),),
        right=not_up(SUBMIT, THROTTLED),
        source="Netfabric, Problemi invio posta (italiano)",
        why="The limit of the day, said with 5xx.",
    ),
    _smtp(
        name="exceeded-hour-limit-as-spam",
        steps=(Step("RCPT", "550 send spam mail rejected: exceeded hour limit"),),
        right=not_up(SUBMIT, THROTTLED),
        source="gophish #3231",
        why="The limit of the hour, said with 5xx and dressed as spam.",
    ),
    _smtp(
        name="account-on-probation",
        steps=(
            Step(
                "MAIL",
                "554 Your account is on probation and domains are limited to 100 messages / hour. "
                "Account will be enabled in 341 seconds",
            ),
        ),
        right=not_up(SUBMIT, THROTTLED),
        source="pivorak-web-app #711",
        why="The limit of the hour, said with 5xx, and when it ends.",
    ),
    _smtp(
        name="ovh-too-many-emails",
        steps=(Step("RCPT", "550 sorry, too many emails (#5.7.1)"),),
        right=not_up(SUBMIT, THROTTLED),
        source="Magento-SMTP-Pro-Email-Extension #94",
        why="qmail writes its status behind the words; we sent too many.",
    ),
    _smtp(
        name="aruba-policy-violation",
        steps=(Step("MAIL", "450 4.7.1 iemL1p01Z0hMcT901emQ77 policy violation"),),
        right=not_up(SUBMIT, THROTTLED, OFFLINE, CREDENTIALS),
        source="Aruba Business, Errori comuni durante l'invio e la ricezione (X.X.X for the code)",
        why="The page: too many messages in a time.",
    ),
    _smtp(
        name="exchange-no-permission-to-send-as",
        steps=(
            Step("MAIL", "550 5.7.60 SMTP; Client does not have permissions to send as this sender [x.example]"),
        ),
        right=not_up(SUBMIT, CREDENTIALS),
        source="Swift Mailer #1030",
        why="The login and the address do not belong together: a setting of the owner or of his organisation.",
    ),
    _smtp(
        name="postfix-sender-not-owned",
        steps=(
            Step(
                "RCPT",
                "553 5.7.1 <mrossi@example.org>: Sender address rejected: not owned by user mrossi@example.org",
            ),
        ),
        right=not_up(SUBMIT, CREDENTIALS),
        source="nixos-mailserver #9",
        why="The login and the address do not belong together.",
    ),
    _smtp(
        name="postfix-insufficient-storage",
        steps=(Step("MAIL", "452 4.3.1 Insufficient system storage"),),
        right=not_up(SUBMIT, UNAVAILABLE),
        source="postfix-relay #7; mailsend #15",
        why="The disk of the server; nothing of ours.",
    ),
    _smtp(
        name="postfix-temporary-lookup-failure",
        steps=(Step("RCPT", "451 4.3.0 <mrossi@example.org>: Temporary lookup failure"),),
        right=not_up(SUBMIT, UNAVAILABLE),
        source="docker-mailserver #1562; mailcow-dockerized #4113",
        why="The server cannot read its own tables.",
    ),
)

DIALOGUES = (*_GREETING, *_LOGIN, *_SUBMIT)
