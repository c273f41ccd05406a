"""Signs a report with the key of the config, where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailwatch.config import Config, build_authorities
from mailwatch.config.mistakes import Fault
from mailwatch.config.named import fault_of_file
from mailwatch.config.secrets import read_plain
from mailwatch.evidence.gather import NoCase

if TYPE_CHECKING:
    from pyhanko.sign import SimpleSigner


def signer(config: Config) -> SimpleSigner | None:
    """Return what signs, None if the config has no `signing`. Raises NoCase."""
    section = config.signing
    if section is None:
        return None
    from mailwatch.evidence.signature import load_signer  # It loads pyHanko, which takes its time.

    for path in (section.key_file, section.certificate_file):
        if path is not None and (what := fault_of_file(path)):
            raise NoCase(what)
    password = None
    if section.password_file or section.password_env:
        try:
            password = read_plain(section.password_file, section.password_env)
        except Fault as fault:
            raise NoCase(f"its password: {fault}") from None
    return load_signer(section.key_file, section.certificate_file, password)


def signed(config: Config, pdf: bytes) -> bytes:
    """Return the PDF, signed if the config has `signing`. Raises NoCase."""
    made = signer(config)
    if made is None or config.signing is None:
        return pdf
    from mailwatch.evidence.signature import sign

    authorities = build_authorities(config) if config.signing.timestamp else ()
    return sign(pdf, made, authorities[0] if authorities else None)
