"""What an actor says when only a person can mend it; the job ends with this one line."""


class Complaint(ValueError):
    """Not a bug and not a bad row: a key that is refused, a run that another session has taken over."""
