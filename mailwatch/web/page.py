"""The overview as one plain HTML page: readable without JavaScript, with a link to the data behind it."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #8885}
.up{color:#157a3c}.down,.suspect{color:#c0261d}.unknown,.recovering{color:#8a6100}
@media(prefers-color-scheme:dark){.up{color:#5fd38d}.down,.suspect{color:#ff8a80}.unknown,.recovering{color:#ffcf66}}
"""
_MARKS = {"up": "● up", "down": "▼ down", "suspect": "▽ suspect", "recovering": "△ recovering"}


def overview(targets: list[dict[str, Any]], outages: list[dict[str, Any]]) -> str:
    """Return the page: each target's state, then the newest outages."""
    rows = "".join(
        f'<tr><th scope="row">{escape(t["target"])}</th><td>{escape(t["provider"])}</td>'
        f'<td class="{escape(t["state"])}">{_MARKS.get(t["state"], "? unknown")}</td>'
        f"<td>{escape(t.get('last_observation') or 'not yet')}</td>"
        f"<td>{escape(t.get('detail') or '')}</td></tr>"
        for t in targets
    )
    told = "".join(_outage_row(o) for o in outages) or '<tr><td colspan="4">none on record</td></tr>'
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>MailWatch</title>'
        '<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="30">'
        f"<style>{_STYLE}</style><h1>MailWatch</h1><table><tr><th>Target<th>Provider<th>State<th>Last looked at"
        f"<th>Detail</tr>{rows}</table><h2>Outages</h2><table><tr><th>Target<th>First seen down<th>State<th>"
        f'At least</tr>{told}</table><p><a href="api/docs">API</a> · <a href="metrics">metrics</a></p></html>'
    )


def _outage_row(outage: dict[str, Any]) -> str:
    return (
        f'<tr><th scope="row">{escape(outage["target"])}</th><td>{escape(outage["first_bad"])}</td>'
        f"<td>{escape(outage['state'])}</td><td>{outage['duration']['min']:.0f} s</td></tr>"
    )
