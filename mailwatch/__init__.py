"""MailWatch: an honest witness of mail outages.

The house, from the ground up (a module imports only from floors below; tests/test_floors.py keeps it so):

models                                  the words, as frozen facts
config, catalogue, ledger, outages, service_level
probes, guard, clock, store             the doors to mail services, to the network, to the disk
metrics, web                            outlets; never each other
monitor, schedule                       the hall
cli                                     one file per verb
"""

__version__ = "0.1.0"
