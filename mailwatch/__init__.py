"""MailWatch: logs in to mailboxes as a mail program does, records what it observes, and proves outages.

The layers, from the top down; a module imports only from layers below, and freely inside its own package.
tests/unit/repository/test_layers.py enforces this.

10 cli          the command line, a file per verb; init/ is the setup wizard, demo/ a fake provider that breaks
9  monitor      the running service: schedule, pipeline, restore, reload
8  fleet        shares out the probes among the nodes of one ledger
   hub          takes the ledgers of vantage points, and pushes ours to another's
7  metrics      the numbers for Prometheus
   notify       messages about outages, from the ledger to each channel
   web          the JSON API and the pages
   evidence     an outage or a period as one file, and its verification
   witness      cosigns the ledgers of others, and has others cosign ours
6  setup        the set-up of a mailbox: search for its servers, login test, the written config.yaml
5  guard        whether a failure is ours: line, resolver, clock, certificates, port 25
   store        the ledger on disk; the only code with SQL
4  probes       the only code that connects to mail servers; oauth/ gets access tokens, roundtrip/ sends a message
3  config       config.yaml, read strictly, and the catalogue of providers
2  analysis     pure functions of recorded facts: outages, availability, incidents, maintenance
1  ledger       canonical entries, Merkle tree, checkpoints, timestamp tokens, cosignatures
0  model, facts the recorded facts, frozen, and the keys of what else probes find
   kinds        a row for each kind of target; settings: the configured targets
   times        milliseconds, RFC 3339, windows, durations; monotonic: the steady clock
   errors       errors that end a command with one line
   certificates certificates as servers send them
   i18n, net    texts for people; hosts and URLs; files: atomic writes
   phrases      the Italian of what the code says in English
   time_zone    the owner's time zone
   progress     the progress of the start
"""

__version__ = "0.2.0"
