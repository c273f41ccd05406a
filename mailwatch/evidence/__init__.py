"""From an outage on record to one file that a judge, a lawyer and an engineer can each check.

gather      what of the ledger a case needs: one unbroken range between two checkpoints, and the tokens over it
statement   what is claimed, as outage.json
bundle      the zip, written as a stream
report/     report.pdf, for a judge to read
claims/     what an outage amounts to under a provider's own rule
letter/     the letter of complaint
period/     the same for a window of time: a month or a year
merge/      bundles of several vantage points as one joint report
verify/     the check of a zip from anywhere: no ledger, no config, nothing trusted that is in it
"""
