"""From an outage on record to one file that a judge, a lawyer and an engineer can each check.

ledger_range    which entries, checkpoints and tokens prove a case: one unbroken range between two checkpoints
statement       what is claimed, as outage.json
outage_case     one outage and everything that its bundle holds
period_case     the same for a window of time: a month or a year
bundle          the zip, written as a stream
report/         report.pdf, for a judge to read
claims/         what an outage amounts to under a provider's own rule
letter/         the letter of complaint
joint/          bundles of several vantage points as one joint report
verify/         the check of a zip from anywhere: no ledger, no config, nothing trusted that is in it
standalone/     what is enclosed in each bundle, to check it without MailWatch
"""
