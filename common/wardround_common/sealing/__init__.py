"""Sealed sums: identities, rosters, epochs, masks, and the grid that makes sums exact."""
