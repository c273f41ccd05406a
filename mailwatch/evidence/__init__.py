"""Turns an outage on record into one file that a judge, a lawyer and an engineer can each check.

ledger_range    entries, checkpoints and tokens that prove a case: one unbroken range between two checkpoints
stated          the shapes of outage.json and period.json
statement       the claims about an outage, as outage.json
warnings        caveats: what a reader of a valid bundle must know before believing it
caveat_text     caveats in words
shipped         what the catalogue that ships knows, for the caveats
outage_case     one outage and all contents of its bundle
period_case     the same for a window of time: a month or a year
bundle          the zip, written as a stream
report/         report.pdf, for a judge to read
claims/         an outage under the provider's own SLA rule
letter/         the letter of complaint
joint/          bundles of several vantage points as one joint report
verify/         verification of any zip, without ledger or config; nothing in the zip is trusted
standalone/     files enclosed in each bundle, to verify it without MailWatch
"""
