"""How fast, and in how much memory: measured side by side with the tools that people know."""
