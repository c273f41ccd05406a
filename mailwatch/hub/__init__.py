"""A hub: vantage points push their ledgers to it, and each side cosigns the other's, so that neither can rewrite.

receiver  takes members in, and verifies and keeps what they push
ledgers   the members' ledgers that are open
app       the receiver over HTTP
client    a vantage point's side: builds a push, and talks to a hub
"""
