"""Servers that break, lie and stall on purpose, and the table of faults that MailWatch must name rightly."""
