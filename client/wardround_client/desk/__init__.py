"""The officer's desk: what `wardround hospital review` says as pages on loopback, on which to decide."""
