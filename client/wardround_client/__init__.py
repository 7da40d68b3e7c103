"""The hospital's side: its node, its gate, and the only reader of its rows."""
