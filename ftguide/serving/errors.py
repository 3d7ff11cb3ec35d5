"Errors of the store of votes and of the page; each message is one line and says what to do."


class FeedbackError(ValueError):
    "Feedback that cannot be read, written or used; the message is one line and says what to do."

    def __init__(self, message: str = ""):
        super().__init__(" ".join(str(message).splitlines()).encode("utf-8", "backslashreplace").decode())


class PageError(ValueError):
    "The page cannot be opened, or refuses what it was asked; the message says why."
