"""The protocol of sealed sums a second time: slow, plain, from PROTOCOL.md and the standards alone.

It shares no line with the first and imports the standard library only, so what both agree on is what is
written down. It is not for use: it takes its time, and how long it takes tells of its keys.
"""
