"""The texts of the demo, in English and Italian."""

from __future__ import annotations

from collections.abc import Mapping

ENGLISH = {
    "title": "MailWatch demo: a fake mail provider on this machine, real logins, no network",
    "starting": "starting a fake provider and `mailwatch run` in {folder}",
    "page": "status page while the demo runs: {url}",
    "provider": "Provider, in truth",
    "fine": "works",
    "slow": "works, but slowly",
    "silent": "accepts connections and never answers",
    "bye": "greets with BYE and disconnects",
    "unavailable": "rejects logins: temporarily unavailable",
    "refusing": "refuses connections",
    "target": "target",
    "state": "MailWatch reports",
    "looks": "last checks",
    "outage": "outage",
    "up": "up",
    "suspect": "suspect",
    "down": "DOWN",
    "recovering": "recovering",
    "unknown": "unknown",
    "none": "none so far",
    "open": "ongoing since {first_bad}, at least {min} s",
    "closed": "ended: lasted between {min} s and {max} s",
    "record": "On record: outage {id}",
    "last_good": "last successful check",
    "first_bad": "first failed check",
    "last_bad": "last failed check",
    "first_good": "next successful check",
    "duration": "duration",
    "estimate": "estimate",
    "observations": "checks",
    "causes": "causes",
    "phases": "failed at",
    "largest_gap": "longest time without a check",
    "ledger": "ledger entries",
    "within": "the true downtime, {truth} s, lies between {min} s and {max} s",
    "outside": "the true downtime, {truth} s, does NOT lie between {min} s and {max} s",
    "incomplete": "not every target had exactly one outage that opened and closed",
    "evidence": "Evidence that anyone can read and verify: {path}\nTo verify it: mailwatch verify {path}",
    "no_evidence": "MailWatch could not make the evidence: {reason}; the log is {log}",
    "kept": "kept: {folder} (to list the outages: mailwatch --config {config} outages)",
    "died": "`mailwatch run` ended with status {status}; the end of {log}:",
    "not_ready": "`mailwatch run` was not ready within {seconds} s; the end of {log}:",
    "mute": "`mailwatch run` never answered over HTTP; the end of {log}:",
    "stopped": "stopped",
}

ITALIAN = {
    "title": "Demo di MailWatch: un finto fornitore di posta su questo computer, accessi veri, senza rete",
    "starting": "avvio un finto fornitore e `mailwatch run` in {folder}",
    "page": "pagina di stato, finché la demo è in corso: {url}",
    "provider": "Il fornitore, in realtà",
    "fine": "funziona",
    "slow": "funziona, ma lentamente",
    "silent": "accetta le connessioni e non risponde mai",
    "bye": "saluta con BYE e chiude la connessione",
    "unavailable": "rifiuta gli accessi: temporaneamente non disponibile",
    "refusing": "rifiuta le connessioni",
    "target": "servizio",
    "state": "MailWatch rileva",
    "looks": "ultimi controlli",
    "outage": "disservizio",
    "up": "funziona",
    "suspect": "in verifica",
    "down": "NON FUNZIONA",
    "recovering": "in ripristino",
    "unknown": "non accertato",
    "none": "finora nessuno",
    "open": "in corso dalle {first_bad}, almeno {min} s",
    "closed": "terminato: è durato fra {min} s e {max} s",
    "record": "Nel registro: disservizio {id}",
    "last_good": "ultimo controllo riuscito",
    "first_bad": "primo controllo fallito",
    "last_bad": "ultimo controllo fallito",
    "first_good": "primo controllo riuscito dopo",
    "duration": "durata",
    "estimate": "stima",
    "observations": "controlli",
    "causes": "cause",
    "phases": "fase fallita",
    "largest_gap": "tempo più lungo senza controlli",
    "ledger": "voci del registro",
    "within": "la durata vera, {truth} s, è compresa fra {min} s e {max} s",
    "outside": "la durata vera, {truth} s, NON è compresa fra {min} s e {max} s",
    "incomplete": "non tutti i servizi hanno avuto esattamente un disservizio, iniziato e poi terminato",
    "evidence": (
        "Il fascicolo di prova, che chiunque può leggere e verificare: {path}\n"
        "Per verificarlo: mailwatch verify {path}"
    ),
    "no_evidence": "MailWatch non ha potuto preparare il fascicolo di prova: {reason}; il log è {log}",
    "kept": "conservato: {folder} (per elencare i disservizi: mailwatch --config {config} outages)",
    "died": "`mailwatch run` è terminato con stato {status}; la fine di {log}:",
    "not_ready": "`mailwatch run` non era pronto entro {seconds} s; la fine di {log}:",
    "mute": "`mailwatch run` non ha mai risposto via HTTP; la fine di {log}:",
    "stopped": "interrotto",
}

LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "it": ITALIAN}


def language(environment: Mapping[str, str]) -> str:
    """Return the language of a POSIX environment: Italian, else English."""
    named = next((environment[key] for key in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(key)), "")
    return "it" if named.startswith("it") else "en"
