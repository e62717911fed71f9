"""The rules of the house, checked on the tree itself; each checker is tried on a made-up offender first."""
