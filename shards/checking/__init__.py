"""Whether a set is whole and follows the format. Read ``verify`` first."""
