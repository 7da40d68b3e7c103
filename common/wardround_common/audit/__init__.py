"""The audit log that cannot be rewritten unseen: a Merkle tree (RFC 9162) over canonical entries."""
