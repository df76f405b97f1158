"""What a team would write instead. They run in an environment of their own: the group `bench` in pyproject.toml."""
