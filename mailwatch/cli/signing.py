"""Signs a report with the key of the config, where there is one."""

from __future__ import annotations

from mailwatch.config import Config, build_authorities
from mailwatch.config.mistakes import Fault
from mailwatch.config.secrets import read_plain
from mailwatch.evidence.gather import NoCase


def signed(config: Config, pdf: bytes) -> bytes:
    """Return the PDF, signed if the config has `signing`. Raises NoCase."""
    section = config.signing
    if section is None:
        return pdf
    from mailwatch.evidence.signature import load_signer, sign  # It loads pyHanko, which takes its time.

    password = None
    if section.password_file or section.password_env:
        try:
            password = read_plain(section.password_file, section.password_env)
        except Fault as fault:
            raise NoCase(f"signing: {fault}") from None
    authorities = build_authorities(config) if section.timestamp else ()
    signer = load_signer(section.key_file, section.certificate_file, password)
    return sign(pdf, signer, authorities[0] if authorities else None)
