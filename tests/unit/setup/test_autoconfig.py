"""What is read of an autoconfig file, and what is refused."""

from __future__ import annotations

import pytest

from mailwatch.model import Kind, TlsMode
from mailwatch.setup.autoconfig import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    AutoconfigError,
    autoconfig_urls,
    parse_autoconfig,
)
from mailwatch.setup.servers import Source

ADDRESS = "mario.rossi@example.org"
FILE = """<?xml version="1.0" encoding="UTF-8"?>
<clientConfig version="1.1">
  <emailProvider id="example.org">
    <domain>example.org</domain>
    <displayName>Example</displayName>
    <incomingServer type="pop3">
      <hostname>pop.example.org</hostname><port>995</port><socketType>SSL</socketType>
      <username>%EMAILADDRESS%</username><authentication>password-cleartext</authentication>
      <pop3><leaveMessagesOnServer>true</leaveMessagesOnServer></pop3>
    </incomingServer>
    <incomingServer type="imap">
      <hostname>plain.example.org</hostname><port>143</port><socketType>plain</socketType>
    </incomingServer>
    <incomingServer type="imap">
      <hostname>oauth.example.org</hostname><port>993</port><socketType>SSL</socketType>
      <authentication>OAuth2</authentication>
    </incomingServer>
    <incomingServer type="imap">
      <hostname>IMAP.%EMAILDOMAIN%</hostname><port>993</port><socketType>SSL</socketType>
      <username>%EMAILLOCALPART%</username>
      <authentication>OAuth2</authentication><authentication>password-cleartext</authentication>
    </incomingServer>
    <incomingServer type="exchange"><hostname>owa.example.org</hostname></incomingServer>
    <outgoingServer type="smtp">
      <hostname>smtp.example.org</hostname> <port> 587 </port> <socketType>STARTTLS</socketType>
      <authentication>password-encrypted</authentication>
    </outgoingServer>
  </emailProvider>
</clientConfig>
"""


def test_the_first_usable_server_of_each_kind_counts() -> None:
    found = parse_autoconfig(FILE.encode(), ADDRESS, Source.AUTOCONFIG)
    assert [(one.kind, one.host, one.port, one.tls, one.username) for one in found] == [
        (Kind.IMAP, "imap.example.org", 993, TlsMode.IMPLICIT, "mario.rossi"),
        (Kind.POP3, "pop.example.org", 995, TlsMode.IMPLICIT, ""),
        (Kind.SMTP, "smtp.example.org", 587, TlsMode.STARTTLS, ""),
    ]
    assert {one.source for one in found} == {Source.AUTOCONFIG}


def server(host: str = "imap.example.org", port: str = "993", socket: str = "SSL", user: str = "") -> bytes:
    return (
        f'<c><incomingServer type="imap"><hostname>{host}</hostname><port>{port}</port>'
        f"<socketType>{socket}</socketType><username>{user}</username></incomingServer></c>"
    ).encode()


@pytest.mark.parametrize(
    "content",
    [
        server(host="127.0.0.1"),
        server(host="localhost"),
        server(host="imap.example.org/x"),
        server(host=""),
        server(port="0"),
        server(port="65536"),
        server(port="9" * 1000),
        server(port="-1"),
        server(socket="plain"),
        server(socket=""),
        server(user="%REALNAME%"),
        server(user="a&#9;b"),
        b"<html><body>Not found</body></html>",
    ],
)
def test_a_server_that_cannot_be_used_is_ignored(content: bytes) -> None:
    assert parse_autoconfig(content, ADDRESS, Source.ISPDB) == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'<!DOCTYPE c [<!ENTITY a "b">]><c>&a;</c>', "document type"),
        (b'<!DOCTYPE c SYSTEM "file:///etc/passwd"><c/>', "document type"),
        (b'<!DOCTYPE c [<!ENTITY % a SYSTEM "http://127.0.0.1/"> %a;]><c/>', "document type"),
        (b"<c>" * (MAX_DEPTH + 1), "more elements"),
        (b"<c>" + b"<d/>" * MAX_ELEMENTS, "more elements"),
        (b"", "not XML"),
        (b"<c>", "not XML"),
        (b"\xff\xfe\x00", "not XML"),
        (b"<c>&a;</c>", "not XML"),
        (b"<?xml version='1.0' encoding='no-such-code'?><c/>", "not XML"),
    ],
)
def test_what_is_no_plain_xml_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(AutoconfigError, match=why):
        parse_autoconfig(content, ADDRESS, Source.AUTOCONFIG)


def test_only_the_domain_leaves_this_machine_and_https_goes_first() -> None:
    own = autoconfig_urls("example.org", Source.AUTOCONFIG)
    assert [url for group in own for url in group] == [
        "https://autoconfig.example.org/mail/config-v1.1.xml",
        "https://example.org/.well-known/autoconfig/mail/config-v1.1.xml",
        "http://autoconfig.example.org/mail/config-v1.1.xml",
        "http://example.org/.well-known/autoconfig/mail/config-v1.1.xml",
    ]
    assert autoconfig_urls("example.org", Source.ISPDB) == (
        ("https://autoconfig.thunderbird.net/v1.1/example.org",),
    )
