"""Witnesses of ledgers: this MailWatch cosigns the checkpoints of others, and has its own cosigned (C2SP).

cosigner  checks a checkpoint against the register and cosigns it
app       the cosigner over HTTP
client    asks a witness for a cosignature
keys      the key that cosigns, which signs nothing else
"""
