"""Sets between places: pushed and pulled, checked at both ends. Read ``transfer`` first."""
