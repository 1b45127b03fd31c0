"""A sample's text as it grows, up to a stop string."""

from gptworks.text.tokenizer import StreamDecoder, Tokenizer


class SampleText:
    """Turns ids into text, and ends it before the first stop string.

    What may turn out to be the beginning of a stop string is held back until that is known.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.stopped = False
        self._decoder = StreamDecoder(tokenizer)
        self._held = ""

    def push(self, id: int) -> str:
        """What can be said after one more token; nothing once it has stopped."""
        return "" if self.stopped else self._say(self._decoder.push(id))

    def end(self) -> str:
        """What was held back, where no stop string came of it."""
        if self.stopped:
            return ""
        said = self._say(self._decoder.end())
        rest, self._held = self._held, ""
        return said if self.stopped else said + rest

    def _say(self, new: str) -> str:
        text = self._held + new
        found = [place for string in self.stop if (place := text.find(string)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        hold = max((_overlap(text, string) for string in self.stop), default=0)
        said, self._held = text[: len(text) - hold], text[len(text) - hold :]
        return said


def _overlap(text: str, string: str) -> int:
    """Length of the longest beginning of `string` that `text` ends with."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
