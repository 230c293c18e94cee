"""The one error that a person's input can cause in stage 2."""


class InputError(ValueError):
    """A file, option or value that cannot be used; its text is one sentence that says what to do."""
