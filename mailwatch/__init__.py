"""MailWatch: an honest witness of mail outages.

The house, from the ground up (a module imports only from floors below; tests/test_floors.py keeps it so):

models                                  the words, as frozen facts
endings                                 errors that end a command in a line
signals, ending, progress               what the process is asked, how it ends in time, how far its start is
standstill, systemd                     a loop that stands still ends the process; what systemd is told
certificates                            certificates as strangers make them: read, or why they cannot be
catalogue                               mail providers, as data
ledger                                  the transparency log: canonical entries, Merkle tree, checkpoints
windows, lasting                        half-open times, and how long they are, as people say it
monotonic, elapsed                      the clock that nobody can set, and how long it is between two moments
time_evidence                           what is known of the true time, whatever our clock shows
maintenance                             what was announced, and when it is
outages, service_level                  pure rules: when a target was down, for how long, how much of a month
incidents                               outages of one provider that overlap: what people talk about
logins                                  how often a rejected login may be tried again
resources                               handles, threads and memory of this process, and their limits
sntp                                    what a time server says of our clock
oauth                                   access granted by an owner, and the tokens that come of it
watched                                 what is watched under a target's name, as the record says it
config                                  config.yaml, read strictly
building                                what the config names, with its secrets read
probes                                  the only door to a mail service
guard, clock                            were we online, and when not; do we know the time
authorities                             who stamps the ledger from outside
port25                                  is the port between mail servers open from here
store                                   the only room that speaks SQL
diagnosis                               what else is seen at the moment of a failure
expiry                                  whose failure a certificate is that our clock calls out of date
discovery                               which servers serve an address, before anybody logs in
course                                  one target followed quickly through half a million entries
replay, records                         what the ledger says: state to go on from, answers to give
metrics, notify, web                    outlets; never each other
auditing                                the ledger checked by itself, slowly, each day
alarm                                   a damaged ledger told of at once, past the outbox in it
evidence                                an outage as one file, and the check of it
schedule, watch                         when to look; what is remembered of a target
looking, judging                        one look, with its login or without; whose failure it is
monitor                                 the hall that carries each look through the rooms
enrolment                               which targets are watched goes on record: start, reload, each day
housekeeping, timestamping, takeup      what runs beside the looks; going on from where the ledger ends
selfwatch                               does MailWatch itself work as it should
answers, outlook                        what the API answers and the pages show of all that
service, startup                        the whole, running; and put together step by step
daemon, demo                            the life of the process; and a show of it
cli, __main__                           one file per verb
"""

__version__ = "0.1.0"
