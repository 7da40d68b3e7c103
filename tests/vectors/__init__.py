"""Test vectors of the protocol of sealed sums, and a second implementation that is held to them."""
