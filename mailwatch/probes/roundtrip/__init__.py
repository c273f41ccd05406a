"""Send a message to a mailbox and wait until it is there: what a mail service is for, end to end.

message.py      what is sent, and how it is known again
submission.py   handing it in by SMTP
mailbox.py      the folders where it may arrive, by IMAP
arrival.py      waiting for it, finding late ones, cleaning up
received.py, signature.py, bounce.py    what the arrived copy, or the report that it will not come, tells
outstanding.py  which messages are still on their way
trip.py         one look, from the one end to the other
"""

from mailwatch.probes.roundtrip.outstanding import Outstanding
from mailwatch.probes.roundtrip.trip import Trips, look

__all__ = ["Outstanding", "Trips", "look"]
