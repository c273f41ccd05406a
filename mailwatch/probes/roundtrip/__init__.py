"""Send a message to a mailbox and wait until it is there: what a mail service is for, end to end.

message.py      what is sent, and how it is known again
submission.py   handing it in by SMTP
mailbox.py      the folders where it may arrive, by IMAP
arrival.py      waiting for it
belated.py      messages of earlier looks
evidence.py, received.py, signature.py, bounce.py   what the arrived copy tells, or the report that none will come
outstanding.py  which messages are still on their way
trip.py, look.py    one look, from the one end to the other
"""

from mailwatch.probes.roundtrip.look import look
from mailwatch.probes.roundtrip.outstanding import Outstanding
from mailwatch.probes.roundtrip.trip import Trips

__all__ = ["Outstanding", "Trips", "look"]
