"""A campaign: simulated weeks of faults through the real monitor, schedule, writer, store, judgement and replay.

`python -m tests.campaign --weeks 500 --seed N` draws worlds of two weeks from the seed (world.py): providers that
break and come back, our own line and machine that fail at the worst moments, passwords, throttling, loss.
MailWatch lives through each (run.py) on a virtual clock (virtual.py), which jumps from timer to timer. Only what
touches the network stands in: the probes (simulated_probes.py) walk the real phases through the truth of each
moment, and the guard answers from the truth about our line (guard.py). All else is MailWatch itself; a kill -9
leaves what was on disk.

At each start the whole ledger is audited and replayed (ledger_check.py). At the end what the ledger reports is
compared with what was true: outages found, bounds, none that was not the provider's (comparison.py, with truth.py
for what excuses an outage from being found), probes, gaps and logins (record_check.py).
`--hub` runs three vantage points of one provider and a hub, over the real detector, ledgers, pushes and quorum,
but without the monitor (hub_world.py, hub_run.py, hub_verdict.py): one of them lies, one is cut off at times.
docs/explanation/campaign.md has the figures and says what the rules cannot promise.
"""
