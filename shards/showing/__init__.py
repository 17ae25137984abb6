"""A set for people and for other tools: numbers, data card, gallery page, Croissant metadata."""
