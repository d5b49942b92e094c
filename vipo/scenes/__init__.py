"""The embedded world: scenes that the project draws itself, the prompts that name them, and a rule-based judge."""
