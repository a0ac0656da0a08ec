"""The configuration: one schema, parsed once at the door, handed on frozen."""
