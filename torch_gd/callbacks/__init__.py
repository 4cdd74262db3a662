"""The monitor as a callback of other libraries' trainers; each module imports its library, and nothing else does."""
